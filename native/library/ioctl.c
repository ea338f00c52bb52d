/*
 * ioctl(2) with its error number as the result. .NET clears the thread's error number before a call, fetches it after, keeps it
 * in a second place of the thread, and is asked for it there: four calls more around each one that pins a page. The C library's
 * own way adds two jumps through the linker's tables, and takes the number apart that the kernel returns, to be put together here.
 */
#include <errno.h>
#include <sys/syscall.h>

/* Linux on x86-64 (System V ABI, A.2.1 "Calling Conventions"): the call clobbers rcx and r11, and returns minus the error number
 * when it fails. */
static long call_kernel(long number, long descriptor, unsigned long request, void *argument)
{
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(descriptor), "S"(request), "d"(argument)
                     : "rcx", "r11", "memory");
    return result;
}

__attribute__((visibility("default"))) int vfiopin_ioctl(int descriptor, unsigned long request, void *argument)
{
    long result;
    do {
        result = call_kernel(SYS_ioctl, descriptor, request, argument);
    } while (result == -EINTR);
    return (int)result;
}
