/*
 * A libudev that answers "no udev here".
 *
 * libzfs asks libudev for three things only: to wait for partition links after
 * it has partitioned a whole disk itself (the agent never lets it), and to note
 * a device's `devid` and `phys_path` in the pool's configuration.  Debian ships
 * no static libudev.  With udev_new() returning NULL, OpenZFS 2.3
 * (lib/libzutil/os/linux/zutil_import_os.c, zfs_device_get_devid and
 * zfs_device_get_physical) takes its documented ENXIO path and leaves these two
 * hints out; a later import on the installed system fills them in.
 */
#include <stddef.h>

struct udev;
struct udev_device;
struct udev_list_entry;

struct udev *udev_new(void) { return NULL; }
struct udev *udev_unref(struct udev *udev) { (void)udev; return NULL; }

struct udev_device *udev_device_new_from_subsystem_sysname(
    struct udev *udev, const char *subsystem, const char *sysname)
{
	(void)udev; (void)subsystem; (void)sysname;
	return NULL;
}

struct udev_device *udev_device_get_parent_with_subsystem_devtype(
    struct udev_device *dev, const char *subsystem, const char *devtype)
{
	(void)dev; (void)subsystem; (void)devtype;
	return NULL;
}

struct udev_device *udev_device_unref(struct udev_device *dev)
{
	(void)dev;
	return NULL;
}

const char *udev_device_get_property_value(struct udev_device *dev,
    const char *key)
{
	(void)dev; (void)key;
	return NULL;
}

struct udev_list_entry *udev_device_get_devlinks_list_entry(
    struct udev_device *dev)
{
	(void)dev;
	return NULL;
}

struct udev_list_entry *udev_list_entry_get_next(struct udev_list_entry *entry)
{
	(void)entry;
	return NULL;
}

const char *udev_list_entry_get_name(struct udev_list_entry *entry)
{
	(void)entry;
	return NULL;
}
