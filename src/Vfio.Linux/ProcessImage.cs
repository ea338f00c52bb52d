using System.Text;

namespace Vfio.Linux;

/// <summary>Becoming another program: what is inherited, and execvp(3).</summary>
public static unsafe class ProcessImage
{
    /// <summary>Lets a descriptor stay open in the program that this process becomes.</summary>
    /// <param name="descriptor">The descriptor.</param>
    /// <exception cref="LinuxException">fcntl(2) failed.</exception>
    public static void Inherit(FileDescriptor descriptor)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        if (LibC.fcntl(descriptor.Number, Fcntl.F_SETFD, 0) < 0)
        {
            throw new LinuxException("fcntl(F_SETFD)", (Errno)LibC.errno, $"descriptor {descriptor.Number}");
        }
    }

    /// <summary>Becomes another program; returns only by an exception. Nothing of this program is disposed.</summary>
    /// <param name="command">The program, looked up in PATH, and its arguments.</param>
    /// <param name="variable">A variable to add to its environment.</param>
    /// <param name="value">The variable's value.</param>
    /// <exception cref="LinuxException">setenv(3) or execvp(3) failed.</exception>
    public static void Replace(IReadOnlyList<string> command, string variable, string value)
    {
        ArgumentNullException.ThrowIfNull(command);
        ArgumentOutOfRangeException.ThrowIfZero(command.Count);
        if (LibC.setenv(variable, value, 1) < 0)
        {
            throw new LinuxException("setenv", (Errno)LibC.errno, variable);
        }

        // The runtime ignores SIGPIPE, and what is ignored stays so in the new program.
        _ = LibC.signal(Signal.SIGPIPE, 0);
        byte[][] words = [.. command.Select(w => Encoding.UTF8.GetBytes(w + "\0"))];
        int bytes = words.Sum(w => w.Length);
        byte* text = stackalloc byte[bytes];
        byte** pointers = stackalloc byte*[words.Length + 1];
        // SAFETY: the text has room for all words with their ends, the pointers for one each and the null at the end.
        for (int i = 0; i < words.Length; i++)
        {
            words[i].CopyTo(new Span<byte>(text, words[i].Length));
            pointers[i] = text;
            text += words[i].Length;
        }

        pointers[words.Length] = null;
        LibC.execvp(pointers[0], pointers);
        var errno = (Errno)LibC.errno;
        throw new LinuxException(
            "execvp",
            errno,
            command[0],
            errno == Errno.ENOENT ? "there is no such program" : null,
            errno == Errno.ENOENT ? "give its path, or one that is in PATH" : null);
    }
}
