namespace Vfio.Linux;

/// <summary>Tells files with places from those that are streams, before a call fails on it with a bare ESPIPE.</summary>
public static unsafe class FileKinds
{
    /// <summary>What a path names, links followed.</summary>
    /// <param name="path">The path.</param>
    /// <returns>The kind; <see cref="FileKind.None"/> too where the path cannot be looked at.</returns>
    public static FileKind Of(string path)
    {
        statx status;
        // SAFETY: statx fills a local of its own size.
        if (LibC.statx(StatFlags.AT_FDCWD, path, 0, Stat.STATX_BASIC_STATS, &status) < 0)
        {
            return FileKind.None;
        }

        return (status.stx_mode & Stat.S_IFMT) switch
        {
            Stat.S_IFREG => FileKind.Regular,
            Stat.S_IFDIR => FileKind.Directory,
            Stat.S_IFIFO => FileKind.Pipe,
            _ => FileKind.Other,
        };
    }

    /// <summary>Whether an open file has places that can be read and written in any order.</summary>
    /// <param name="file">The file.</param>
    /// <returns>False for a pipe, a socket or a terminal.</returns>
    public static bool CanSeek(FileDescriptor file)
    {
        ArgumentNullException.ThrowIfNull(file);
        return LibC.lseek(file.Number, 0, Seek.SEEK_CUR) >= 0;
    }
}
