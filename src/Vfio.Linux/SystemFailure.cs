namespace Vfio.Linux;

/// <summary>What an error number of a system call means to a user of this program, and what to do about it. Who knows more says it in the
/// <see cref="LinuxException"/>.</summary>
/// <param name="Call">The call; empty for every one.</param>
/// <param name="Errno">The error number.</param>
/// <param name="Cause">What the kernel says with it.</param>
/// <param name="Cure">What the user can do.</param>
public sealed record SystemFailure(string Call, Errno Errno, string Cause, string Cure)
{
    /// <summary>Those that a user can bring about: a path, a descriptor, a limit (unix(7), connect(2), fcntl(2), open(2)).</summary>
    public static IReadOnlyList<SystemFailure> All { get; } =
    [
        new("bind", Errno.EADDRINUSE, "another process listens there, or the path is not a socket",
            "end that process, remove the file, or choose another path"),
        new("bind", Errno.ENOENT, "the directory is not there", "make it with mkdir -p, or choose another path"),
        new("bind", Errno.EACCES, "this user may not make a file in the directory", "run as root, or choose another path"),
        new("bind", Errno.EROFS, "the file system can only be read", "choose a path on another one"),
        new("connect", Errno.EACCES, "this user may not use the socket", "run as root, or look at its mode: ls -l"),
        new("connect", Errno.EPROTOTYPE, "what listens there takes datagrams, no stream", "look at who listens there: ss -xlp"),
        new("write", Errno.ENOSPC, "the file system is full", "make room there (df -h), or name a file on another one"),
        new("sendmsg", Errno.EBADF, "a descriptor to hand over is not open", "open it in the program that starts this one, without close-on-exec"),
        new("fcntl(F_DUPFD_CLOEXEC)", Errno.EBADF, "this process has no such descriptor",
            "open it in the program that starts this one, without close-on-exec"),
        new(string.Empty, Errno.EMFILE, "the process has no descriptors left", "raise the limit: ulimit -n, or LimitNOFILE= in a systemd unit"),
        new(string.Empty, Errno.ENFILE, "the machine has no descriptors left", "raise the limit: sysctl -w fs.file-max=NUMBER"),
        new(string.Empty, Errno.ENOTDIR, "a part of the path is no directory", "look at the path"),
    ];

    // Below All, which it is made from: static initialisers run in the order of the text.
    private static readonly Dictionary<(string Call, Errno Errno), SystemFailure> Table = All.ToDictionary(f => (f.Call, f.Errno));

    /// <summary>What is known of an error.</summary>
    /// <param name="call">The call.</param>
    /// <param name="errno">The error number.</param>
    /// <returns>The explanation, or null where there is none.</returns>
    public static SystemFailure? Find(string call, Errno errno) =>
        Table.GetValueOrDefault((call, errno)) ?? Table.GetValueOrDefault((string.Empty, errno));
}
