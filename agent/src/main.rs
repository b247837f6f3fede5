//! `keystone-agent`.

use keystone_agent::activation;

fn main() {
    let mut args = std::env::args_os().skip(1);
    // First of all: it has to run before there are threads.
    if args.next().is_some_and(|command| command == activation::SUBCOMMAND) {
        activation::child_main(args);
    }
}
