/*
 * ioctl(2) with its error number as the result. In .NET the error number of a call is fetched from the thread, kept in a
 * second place of the thread and fetched from there, which takes as long as the calls that map one page in the fastest kernels.
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
