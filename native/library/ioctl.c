/*
 * ioctl(2) with its error number as the result. .NET clears the thread's error number before a call, fetches it after, keeps it
 * in a second place of the thread, and is asked for it there: four calls more around each one that pins a page.
 */
#include <errno.h>
#include <sys/ioctl.h>

__attribute__((visibility("default"))) int vfiopin_ioctl(int descriptor, unsigned long request, void *argument)
{
    int result;
    do {
        result = ioctl(descriptor, request, argument);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}
