/*
 * Asks for cache lines to be written soon (PREFETCHW), all at once: .NET has the hint for reading only, and a line that was
 * fetched for reading has to be asked for a second time when it is written. A hint never faults, whatever the address.
 */
#include <stddef.h>

__attribute__((visibility("default"))) void vfiopin_prefetch_for_write(const void *const *lines, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        __builtin_prefetch(lines[i], 1, 3);
    }
}
