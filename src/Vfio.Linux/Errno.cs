namespace Vfio.Linux;

/// <summary>Linux error numbers as the calls of this project return them (x86-64 and arm64 agree), in the kernel's spelling.
/// A value that has no name here is still valid: it is the number itself.</summary>
/// <remarks>Source: <c>include/uapi/asm-generic/errno-base.h</c> and <c>errno.h</c>.</remarks>
public enum Errno
{
    /// <summary>No error.</summary>
    None = 0,

    /// <summary>Operation not permitted.</summary>
    EPERM = 1,

    /// <summary>No such file, directory or entry.</summary>
    ENOENT = 2,

    /// <summary>Interrupted by a signal.</summary>
    EINTR = 4,

    /// <summary>Input/output error.</summary>
    EIO = 5,

    /// <summary>Argument list too long.</summary>
    E2BIG = 7,

    /// <summary>Bad file descriptor.</summary>
    EBADF = 9,

    /// <summary>Would block; try again.</summary>
    EAGAIN = 11,

    /// <summary>Out of memory, or over a limit on it.</summary>
    ENOMEM = 12,

    /// <summary>Permission denied.</summary>
    EACCES = 13,

    /// <summary>Bad address.</summary>
    EFAULT = 14,

    /// <summary>Device or resource busy.</summary>
    EBUSY = 16,

    /// <summary>Exists already.</summary>
    EEXIST = 17,

    /// <summary>No such device.</summary>
    ENODEV = 19,

    /// <summary>Not a directory.</summary>
    ENOTDIR = 20,

    /// <summary>Is a directory.</summary>
    EISDIR = 21,

    /// <summary>Invalid argument.</summary>
    EINVAL = 22,

    /// <summary>Too many open files in the system.</summary>
    ENFILE = 23,

    /// <summary>Too many open files.</summary>
    EMFILE = 24,

    /// <summary>The descriptor knows no such request.</summary>
    ENOTTY = 25,

    /// <summary>No space left.</summary>
    ENOSPC = 28,

    /// <summary>Illegal seek.</summary>
    ESPIPE = 29,

    /// <summary>Read-only file system.</summary>
    EROFS = 30,

    /// <summary>Broken pipe: the other end is gone.</summary>
    EPIPE = 32,

    /// <summary>Result too large for the room that was given.</summary>
    ERANGE = 34,

    /// <summary>A name or a path is too long.</summary>
    ENAMETOOLONG = 36,

    /// <summary>Function not implemented by this kernel.</summary>
    ENOSYS = 38,

    /// <summary>Value too large for its type.</summary>
    EOVERFLOW = 75,

    /// <summary>Not a socket.</summary>
    ENOTSOCK = 88,

    /// <summary>The socket is of another type.</summary>
    EPROTOTYPE = 91,

    /// <summary>Operation not supported.</summary>
    EOPNOTSUPP = 95,

    /// <summary>Address in use.</summary>
    EADDRINUSE = 98,

    /// <summary>A connection ended before it was accepted.</summary>
    ECONNABORTED = 103,

    /// <summary>Connection reset by the peer.</summary>
    ECONNRESET = 104,

    /// <summary>No buffer space available.</summary>
    ENOBUFS = 105,

    /// <summary>Nobody listens there.</summary>
    ECONNREFUSED = 111,

    /// <summary>Timed out.</summary>
    ETIMEDOUT = 110,

    /// <summary>The page has a hardware error.</summary>
    EHWPOISON = 133,
}
