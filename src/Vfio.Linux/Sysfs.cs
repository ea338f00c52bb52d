namespace Vfio.Linux;

/// <summary>Files below <c>/sys</c> and <c>/proc</c>, or below a directory that stands for them in a test. Reads and writes
/// small text files and follows links; decides nothing.</summary>
/// <remarks>Thread-safe; holds no state but the root.</remarks>
public sealed class Sysfs
{
    /// <summary>Uses <paramref name="root"/> in place of <c>/</c>.</summary>
    /// <param name="root">The directory under which <c>sys</c>, <c>proc</c> and <c>dev</c> are found.</param>
    public Sysfs(string root = "/") => Root = root;

    /// <summary>The directory that stands for <c>/</c>.</summary>
    public string Root { get; }

    /// <summary>The path below the root.</summary>
    /// <param name="path">A path that starts with a slash, such as <c>/sys/bus/pci/devices</c>.</param>
    /// <returns>The path to use.</returns>
    public string Resolve(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        return Path.Combine(Root, path.TrimStart('/'));
    }

    /// <summary>Whether the file or directory exists.</summary>
    /// <param name="path">The path.</param>
    /// <returns>True when it does.</returns>
    public bool Exists(string path) => Path.Exists(Resolve(path));

    /// <summary>The text of a file without the white space around it.</summary>
    /// <param name="path">The path.</param>
    /// <returns>The text, or null when there is no such file or it cannot be read.</returns>
    public string? TryRead(string path)
    {
        try
        {
            return File.ReadAllText(Resolve(path)).Trim();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>Writes text into a file in one write(2), as attributes need it.</summary>
    /// <param name="path">The path.</param>
    /// <param name="text">The text; empty text is written as a single new line, which clears an attribute.</param>
    /// <exception cref="LinuxException">open(2) or write(2) failed.</exception>
    public unsafe void Write(string path, string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        string file = Resolve(path);
        using var descriptor = FileDescriptor.Open(LinuxKernel.Instance, file, Fcntl.O_WRONLY | Fcntl.O_TRUNC);
        byte[] bytes = System.Text.Encoding.UTF8.GetBytes(text.Length == 0 ? "\n" : text);
        // SAFETY: the array is pinned for the call and its own length bounds it.
        fixed (byte* pointer = bytes)
        {
            if (LibC.write(descriptor.Number, pointer, (nuint)bytes.Length) < 0)
            {
                throw new LinuxException("write", (Errno)LibC.errno, $"{file} <- \"{text}\"");
            }
        }
    }

    /// <summary>The last name of what a link points at, such as a driver's.</summary>
    /// <param name="path">The link.</param>
    /// <returns>The name, or null when there is no such link.</returns>
    public string? TryReadLinkName(string path)
    {
        try
        {
            string? target = new FileInfo(Resolve(path)).LinkTarget;
            return target is null ? null : Path.GetFileName(target.TrimEnd('/'));
        }
        catch (IOException)
        {
            return null;
        }
    }

    /// <summary>The names in a directory, sorted.</summary>
    /// <param name="path">The directory.</param>
    /// <returns>The names; none when there is no such directory.</returns>
    public IReadOnlyList<string> List(string path)
    {
        string directory = Resolve(path);
        if (!Directory.Exists(directory))
        {
            return [];
        }

        string[] names = [.. Directory.EnumerateFileSystemEntries(directory).Select(e => Path.GetFileName(e))];
        Array.Sort(names, StringComparer.Ordinal);
        return names;
    }
}
