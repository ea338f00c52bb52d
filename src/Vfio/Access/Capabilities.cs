using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio;

/// <summary>Walks the capability chain that VFIO appends to an info structure. Offsets count from the structure's first byte;
/// each is checked against the bytes that the kernel filled, and a chain can be no longer than the buffer has room for headers.</summary>
internal ref struct Capabilities(ReadOnlySpan<byte> info, uint first)
{
    private readonly ReadOnlySpan<byte> _info = info;
    private uint _next = first;
    private int _left = info.Length / 8;

    /// <summary>The identifier of the capability that <see cref="MoveNext"/> found.</summary>
    public ushort Id { get; private set; }

    /// <summary>The capability with its header, up to the end of the buffer.</summary>
    public ReadOnlySpan<byte> Bytes { get; private set; }

    /// <summary>Goes to the next capability.</summary>
    /// <returns>False at the end of the chain.</returns>
    public bool MoveNext()
    {
        if (_next == 0 || _left-- == 0 || _next > _info.Length - 8)
        {
            return false;
        }

        Bytes = _info[(int)_next..];
        vfio_info_cap_header header = MemoryMarshal.Read<vfio_info_cap_header>(Bytes);
        Id = header.id;
        _next = header.next;
        return true;
    }
}
