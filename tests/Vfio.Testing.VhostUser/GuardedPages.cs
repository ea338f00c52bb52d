using System.Globalization;
using Vfio.Linux;

namespace Vfio.Testing.VhostUser;

/// <summary>The back-end's own mapping of a guest's memory, page by page: a page taken away here ends the process at the next
/// access, whoever makes it.</summary>
public sealed class GuardedPages
{
    private readonly nint _address;

    /// <summary>Finds the mapping of a memory file that is not the front-end's own.</summary>
    public GuardedPages(string file, HostAddress frontend)
    {
        foreach (string line in File.ReadLines("/proc/self/maps"))
        {
            if (line.Contains($"/memfd:{file}", StringComparison.Ordinal))
            {
                ulong start = ulong.Parse(line.AsSpan(0, line.IndexOf('-', StringComparison.Ordinal)), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
                if (start != frontend.Value)
                {
                    _address = (nint)start;
                    return;
                }
            }
        }

        throw new InvalidOperationException($"the back-end has not mapped {file}");
    }

    /// <summary>Takes a page away.</summary>
    public void Close(ulong offset) => Protect(offset, Mman.PROT_NONE);

    /// <summary>Gives it back.</summary>
    public void Open(ulong offset) => Protect(offset, Mman.PROT_READ | Mman.PROT_WRITE);

    private void Protect(ulong offset, int protection)
    {
        if (LibC.mprotect(_address + (nint)offset, 4096, protection) < 0)
        {
            throw new LinuxException("mprotect", (Errno)LibC.errno, $"offset 0x{offset:x}");
        }
    }
}
