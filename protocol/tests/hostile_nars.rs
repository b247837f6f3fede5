//! NARs that nobody would make, in a bounded number.

#[path = "../../fuzz/src/nar.rs"]
mod nar;

use proptest::prelude::*;

/// A NAR's strings, of which some may be wrong: what is between them is right.
fn words() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let word = prop_oneof![
        20 => prop::sample::select(vec![
            "(", ")", "type", "directory", "regular", "symlink", "contents", "executable", "target",
            "entry", "name", "node", "a", "b", "..", ".", "/", "a/b", "a\0", "",
        ])
        .prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ];
    prop::collection::vec(word, 0..30)
}

fn written(words: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in words {
        out.extend((word.len() as u64).to_le_bytes());
        out.extend(word);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

/// The words of an object that is in order.
fn object(depth: u32) -> BoxedStrategy<Vec<Vec<u8>>> {
    let strings = |words: &[&[u8]]| words.iter().map(|w| w.to_vec()).collect::<Vec<_>>();
    let file =
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(move |(x, c)| {
            let mut words = strings(&[b"(", b"type", b"regular"]);
            if x {
                words.extend(strings(&[b"executable", b""]));
            }
            words.extend([b"contents".to_vec(), c, b")".to_vec()]);
            words
        });
    let link = prop::collection::vec(1..=255u8, 1..20)
        .prop_map(move |t| strings(&[b"(", b"type", b"symlink", b"target", &t, b")"]));
    if depth == 0 {
        return prop_oneof![file, link].boxed();
    }
    let entries = prop::collection::btree_map("[a-d]{1,3}", object(depth - 1), 0..4);
    let directory = entries.prop_map(move |entries| {
        let mut words = strings(&[b"(", b"type", b"directory"]);
        for (name, node) in entries {
            words.extend(strings(&[b"entry", b"(", b"name", name.as_bytes(), b"node"]));
            words.extend(node);
            words.push(b")".to_vec());
        }
        words.push(b")".to_vec());
        words
    });
    prop_oneof![file, link, directory].boxed()
}

fn archive() -> impl Strategy<Value = Vec<Vec<u8>>> {
    object(3).prop_map(|mut words| {
        words.insert(0, b"nix-archive-1".to_vec());
        words
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_words(mut words in words()) {
        words.insert(0, b"nix-archive-1".to_vec());
        nar::run(&written(&words));
    }

    #[test]
    fn what_was_an_archive(
        words in archive(),
        swap in any::<(prop::sample::Index, prop::sample::Index)>(),
        other in words(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        length in any::<u64>(),
    ) {
        let good = written(&words);
        prop_assert!(nar::run(&good));
        // Words out of place, left out, doubled, and others among them.
        let mut swapped = words.clone();
        let (one, two) = (swap.0.index(words.len()), swap.1.index(words.len()));
        swapped.swap(one, two);
        nar::run(&written(&swapped));
        let mut without = words.clone();
        without.remove(one);
        nar::run(&written(&without));
        let mut more = words.clone();
        more.splice(one..one, other);
        nar::run(&written(&more));
        // Bytes changed: names, lengths, padding.
        let mut changed = good.clone();
        for (at, to) in changes {
            let at = at.index(changed.len());
            changed[at] = to;
        }
        nar::run(&changed);
        // A length that can't be, and an end that is missing.
        let at = swap.0.index(good.len() / 8) * 8;
        let mut long = good.clone();
        long[at..at + 8].copy_from_slice(&length.to_le_bytes());
        nar::run(&long);
        prop_assert!(!nar::run(&good[..at]));
    }
}
