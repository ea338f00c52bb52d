using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>Capabilities as VFIO chains them behind an info structure (vfio_info_cap_add, vfio_info_cap_shift).</summary>
internal sealed class CapabilityChain(KernelBehaviour behaviour)
{
    private readonly List<byte[]> _capabilities = [];

    public int Length => _capabilities.Sum(c => c.Length);

    public static vfio_info_cap_header Header(ushort id) => new() { id = id, version = 1 };

    /// <summary>Adds a structure that starts with a header, and what follows it.</summary>
    public void Add<T>(T capability, ReadOnlySpan<byte> rest = default)
        where T : unmanaged =>
        _capabilities.Add(Padded([.. MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in capability)), .. rest]));

    /// <summary>The chain with each <c>next</c> counted from the info structure's start.</summary>
    public byte[] ToBytes(uint offset)
    {
        uint next = offset;
        foreach (byte[] capability in _capabilities)
        {
            next += (uint)capability.Length;
            var header = MemoryMarshal.Read<vfio_info_cap_header>(capability);
            header.next = capability == _capabilities[^1] ? 0 : next;
            MemoryMarshal.Write(capability, header);
        }

        return [.. _capabilities.SelectMany(c => c)];
    }

    private byte[] Padded(byte[] capability)
    {
        Array.Resize(ref capability, behaviour.AlignsCapabilities ? (capability.Length + 7) / 8 * 8 : capability.Length);
        return capability;
    }
}
