using System.Runtime.CompilerServices;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>Translates guest physical addresses by the memory table: the case without an IOMMU. The regions of the last two
/// hits are tried first: a guest of more than some gigabytes has its memory below 4 GiB in one, and the rest in another.</summary>
/// <remarks>For one queue, while its memory does not change.</remarks>
internal struct GuestMemoryTranslator : ITranslator
{
    private readonly GuestMemory _memory;
    private AddressWindow _last;
    private AddressWindow _other;

    public GuestMemoryTranslator(GuestMemory memory)
    {
        _memory = memory;
        _last = default;
        _other = default;
    }

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly bool TryTranslate(BusAddress address, uint length, DeviceAccess access, out HostAddress host) =>
        _last.TryTranslate(address.Value, length, out host) || _other.TryTranslate(address.Value, length, out host);

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly void CountAtHand(int times)
    {
    }

    /// <inheritdoc/>
    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public TranslationStatus Translate(
        BusAddress address, uint length, DeviceAccess access, out HostAddress host, out uint usable)
    {
        if (TryTranslate(address, length, access, out host))
        {
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
        if (!_memory.TryFind(new GuestPhysicalAddress(address.Value), out AddressWindow found))
        {
            host = default;
            usable = 0;
            return TranslationStatus.Denied;
        }

        if (found.First != _last.First || _last.Length == 0)
        {
            (_other, _last) = (_last, found);
        }

        ulong offset = Speculation.Clamp(address.Value - found.First, found.Length - 1);
        host = new HostAddress(found.Host + offset);
        usable = (uint)Math.Min(length, found.Length - offset);
        return TranslationStatus.Translated;
    }
}
