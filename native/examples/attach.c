/* A program that uses a pool of vfiopin: it is started by
 *
 *     vfiopin attach POOL -- ./attach [TEXT]
 *
 * which gives it the pool's memory and the devices that reach it as descriptors, and their layout as JSON in VFIOPIN_LAYOUT. It asks
 * every device what it has, maps every segment, says where the devices find it, and with TEXT writes that at the start of the pool and
 * reads it back through a second mapping.
 *
 *     cc -O2 -Wall -Wextra -o attach attach.c
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* The value of "name" in an object of the layout: enough JSON for what vfiopin writes, which has no strings with quotes. */
static const char *member(const char *object, const char *end, const char *name)
{
    char key[64];
    snprintf(key, sizeof key, "\"%s\":", name);
    const char *found = strstr(object, key);
    if (found == NULL || found >= end) {
        fprintf(stderr, "attach: the layout has no %s\n", name);
        exit(1);
    }
    return found + strlen(key);
}

static uint64_t number(const char *object, const char *end, const char *name)
{
    return strtoull(member(object, end, name), NULL, 10);
}

/* The next object of an array whose objects hold no others, from *at on; NULL behind the last. Moves *at behind it. */
static const char *object(const char **at, const char **end)
{
    const char *first = *at + strcspn(*at, "{]");
    if (*first != '{')
        return NULL;
    *end = strchr(first, '}');
    if (*end == NULL) {
        fprintf(stderr, "attach: the layout ends too early\n");
        exit(1);
    }
    *at = *end;
    return first;
}

/* IOVAs are strings, "0x100000000": JSON's numbers lose bits above 2^53 in many readers. */
static uint64_t address(const char *object, const char *end, const char *name)
{
    return strtoull(member(object, end, name) + 1, NULL, 16);
}

static void *map(int descriptor, uint64_t length)
{
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (memory == MAP_FAILED) {
        fprintf(stderr, "attach: mmap of %" PRIu64 " bytes: %s\n", length, strerror(errno));
        exit(1);
    }
    return memory;
}

/* The device is open already, and its group in the container: all that a program of its own would have done first. */
static void ask(int descriptor, const char *name)
{
    struct vfio_device_info info = { .argsz = sizeof info };
    if (ioctl(descriptor, VFIO_DEVICE_GET_INFO, &info) < 0) {
        fprintf(stderr, "attach: VFIO_DEVICE_GET_INFO on descriptor %d: %s\n", descriptor, strerror(errno));
        exit(1);
    }
    printf("device %.*s: %s, %u regions, %u interrupts%s, descriptor %d\n", (int)strcspn(name, "\""), name,
           info.flags & VFIO_DEVICE_FLAGS_PCI ? "PCI" : "not PCI", info.num_regions, info.num_irqs,
           info.flags & VFIO_DEVICE_FLAGS_RESET ? ", can be reset" : "", descriptor);
}

int main(int argc, char **argv)
{
    const char *layout = getenv("VFIOPIN_LAYOUT");
    if (layout == NULL) {
        fprintf(stderr, "attach: no VFIOPIN_LAYOUT; run it as: vfiopin attach POOL -- %s\n", argv[0]);
        return 2;
    }

    const char *end = layout + strlen(layout);
    const char *next = member(layout, end, "devices");
    const char *first, *stop;
    while ((first = object(&next, &stop)) != NULL)
        ask((int)number(first, stop, "descriptor"), member(first, stop, "address") + 1);

    next = member(layout, end, "segments");
    for (int i = 0; (first = object(&next, &stop)) != NULL; i++) {
        int descriptor = (int)number(first, stop, "descriptor");
        uint64_t length = number(first, stop, "length");
        char *memory = map(descriptor, length);
        printf("segment %d: %" PRIu64 " bytes at IOVA 0x%" PRIx64 ", descriptor %d\n",
               i, length, address(first, stop, "iova"), descriptor);

        if (i == 0 && argc > 1) {
            size_t size = strlen(argv[1]) + 1;
            if (size > length) {
                fprintf(stderr, "attach: the text does not fit\n");
                return 1;
            }
            memcpy(memory, argv[1], size);
            const char *second = map(descriptor, length);
            printf("wrote and read back: %s\n", second);
            if (memcmp(second, argv[1], size) != 0) {
                fprintf(stderr, "attach: the second mapping shows something else\n");
                return 1;
            }
        }
    }
    return 0;
}
