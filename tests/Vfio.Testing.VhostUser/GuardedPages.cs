using System.Globalization;
using Vfio.Linux;

namespace Vfio.Testing.VhostUser;

/// <summary>The back-end's own mapping of a guest's memory: what is taken away here ends the process at the next access, whoever makes
/// it.</summary>
public sealed class GuardedPages
{
    private readonly string _file;
    private readonly HostAddress _frontend;
    private readonly nint _address;
    private readonly nuint _length;
    private bool _isOccupied;

    /// <summary>Finds the mapping of a memory file that is not the front-end's own.</summary>
    /// <param name="file">The file's name.</param>
    /// <param name="frontend">Where the front-end has it.</param>
    public GuardedPages(string file, HostAddress frontend)
    {
        _file = file;
        _frontend = frontend;
        _address = Find() ?? throw new InvalidOperationException($"the back-end has not mapped {file}");
    }

    /// <summary>Finds it too, to <see cref="Occupy"/> its place.</summary>
    /// <param name="file">The file's name.</param>
    /// <param name="frontend">Where the front-end has it.</param>
    /// <param name="length">Bytes of the mapping.</param>
    public GuardedPages(string file, HostAddress frontend, ulong length)
        : this(file, frontend) => _length = checked((nuint)length);

    /// <summary>Takes pages away.</summary>
    public void Close(ulong offset, ulong length = 4096) => Protect(offset, length, Mman.PROT_NONE);

    /// <summary>Gives them back.</summary>
    public void Open(ulong offset, ulong length = 4096) => Protect(offset, length, Mman.PROT_READ | Mman.PROT_WRITE);

    /// <summary>Puts a guard where the mapping was, which the back-end has removed by itself: else something else may come to lie
    /// there, and hide an access.</summary>
    /// <returns>False where something else lies there already.</returns>
    public bool Occupy()
    {
        if (Find() == _address)
        {
            throw new InvalidOperationException($"the back-end still has {_file} mapped at 0x{_address:x}");
        }

        // A hint: the kernel goes elsewhere when the place is taken.
        nint guard = LibC.mmap(_address, _length, Mman.PROT_NONE, Mman.MAP_PRIVATE | Mman.MAP_ANONYMOUS | Mman.MAP_NORESERVE, -1, 0);
        _isOccupied = guard == _address;
        if (!_isOccupied && guard != -1)
        {
            _ = LibC.munmap(guard, _length);
        }

        return _isOccupied;
    }

    /// <summary>Takes the guard away.</summary>
    public void Leave()
    {
        if (_isOccupied)
        {
            _ = LibC.munmap(_address, _length);
            _isOccupied = false;
        }
    }

    private nint? Find()
    {
        foreach (string line in File.ReadLines("/proc/self/maps"))
        {
            if (line.Contains($"/memfd:{_file} ", StringComparison.Ordinal))
            {
                ulong start = ulong.Parse(line.AsSpan(0, line.IndexOf('-', StringComparison.Ordinal)), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
                if (start != _frontend.Value)
                {
                    return (nint)start;
                }
            }
        }

        return null;
    }

    private void Protect(ulong offset, ulong length, int protection)
    {
        if (LibC.mprotect(_address + (nint)offset, (nuint)length, protection) < 0)
        {
            throw new LinuxException("mprotect", (Errno)LibC.errno, $"offset 0x{offset:x}, {length} bytes");
        }
    }
}
