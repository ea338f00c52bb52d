using System.Runtime.CompilerServices;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>Translates guest physical addresses by the memory table: the case without an IOMMU. The region of the last hit is
/// tried first.</summary>
/// <remarks>For one queue, while its memory does not change.</remarks>
internal struct GuestMemoryTranslator : ITranslator
{
    private readonly GuestMemory _memory;
    private GuestMemory.Area _last;

    public GuestMemoryTranslator(GuestMemory memory)
    {
        _memory = memory;
        _last = default;
    }

    /// <inheritdoc/>
    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public TranslationStatus Translate(
        BusAddress address, uint length, DeviceAccess access, out HostAddress host, out uint usable)
    {
        ulong offset = unchecked(address.Value - _last.Guest);
        if (offset < _last.Length && length <= _last.Length - offset)
        {
            host = new HostAddress(unchecked(_last.Host + Speculation.Clamp(offset, _last.Length - 1)));
            usable = length;
            return TranslationStatus.Translated;
        }

        // By way of locals of its own, not cleared beforehand, so that the caller's stay in registers.
        TranslationStatus status = Find(address, length, out HostAddress found, out uint foundUsable);
        (host, usable) = (found, foundUsable);
        return status;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private TranslationStatus Find(BusAddress address, uint length, out HostAddress host, out uint usable)
    {
        if (!_memory.TryFind(new GuestPhysicalAddress(address.Value), out GuestMemory.Area found))
        {
            host = default;
            usable = 0;
            return TranslationStatus.Denied;
        }

        _last = found;
        ulong offset = Speculation.Clamp(address.Value - found.Guest, found.Length - 1);
        host = new HostAddress(found.Host + offset);
        usable = (uint)Math.Min(length, found.Length - offset);
        return TranslationStatus.Translated;
    }
}
