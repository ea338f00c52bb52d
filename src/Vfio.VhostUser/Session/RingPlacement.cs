using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>Finds out where rings are in this process, or what has to be asked for first.</summary>
internal sealed class RingPlacement(SessionIotlb iotlb, PeerMappings mappings, Action<string> log)
{
    /// <summary>Finds a ring.</summary>
    /// <returns>Where it is; null while translations of it are missing, which are asked for then.</returns>
    /// <exception cref="VhostUserProtocolException">It can be nowhere.</exception>
    public RingPlace? TryPlace(Vring ring, VringAddresses addresses, VirtioFeatures features, GuestMemory memory)
    {
        if (!RingAddresses.IsValidSize(ring.Size, features))
        {
            throw new VhostUserProtocolException(
                $"ring {ring.Index} cannot have {ring.Size} entries: a split ring's number is a power of two");
        }

        RingPlace? place = features.HasFlag(VirtioFeatures.AccessPlatform)
            ? Translate(ring, addresses, features) : Resolve(ring, addresses, features, memory);
        return place is null || place.Addresses.IsAligned(features)
            ? place
            : throw new VhostUserProtocolException(
                $"a part of ring {ring.Index} is not aligned: {addresses.Descriptor}, {addresses.Available}, {addresses.Used}");
    }

    private static RingPlace Resolve(Vring ring, VringAddresses addresses, VirtioFeatures features, GuestMemory memory)
    {
        uint bytes = RingAddresses.DescriptorBytes(ring.Size);
        var resolved = new RingAddresses(
            Find(ring, memory, "descriptors", addresses.Descriptor, bytes),
            Find(ring, memory, "driver area", addresses.Available, RingAddresses.DriverBytes(ring.Size, features)),
            Find(ring, memory, "device area", addresses.Used, RingAddresses.DeviceBytes(ring.Size, features)));
        return new RingPlace(
            resolved,
            features.HasFlag(VirtioFeatures.RingPacked) ? [(resolved.Descriptors, bytes)] : [],
            RingAddresses.DeviceBytes(ring.Size, features));
    }

    private static HostAddress Find(Vring ring, GuestMemory memory, string part, FrontendAddress address, uint length) =>
        memory.TryFind(address, length, out HostAddress host)
            ? host
            : throw new VhostUserProtocolException(
                $"ring {ring.Index}: the {part} at {address}, {length} bytes, is not inside one memory region");

    // With an IOMMU ring addresses are IOVAs. Each part is needed whole: a ring may cross pages that are mapped one by one.
    private RingPlace? Translate(Vring ring, VringAddresses addresses, VirtioFeatures features)
    {
        ring.Parts =
        [
            Part(ring, addresses.Descriptor, RingAddresses.DescriptorBytes(ring.Size)),
            Part(ring, addresses.Available, RingAddresses.DriverBytes(ring.Size, features)),
            Part(ring, addresses.Used, RingAddresses.DeviceBytes(ring.Size, features)),
        ];
        bool isPacked = features.HasFlag(VirtioFeatures.RingPacked);
        iotlb.Table.Hold(ring, ring.Parts);
        List<(HostAddress Address, ulong Length)> descriptors = [], driver = [], device = [];
        bool found = TryTranslate(ring.Parts[0], isPacked ? DmaAccess.ReadWrite : DmaAccess.Read, descriptors)
            & TryTranslate(ring.Parts[1], DmaAccess.Read, driver)
            & TryTranslate(ring.Parts[2], DmaAccess.Write, device);
        ring.IsWaitingForTranslation = !found;
        return found
            ? new RingPlace(Assemble(ring, descriptors, driver, device), isPacked ? [.. device, .. descriptors] : device, 0)
            : null;
    }

    private bool TryTranslate(IovaRange part, DmaAccess access, List<(HostAddress Address, ulong Length)> found)
    {
        Span<IotlbPiece> pieces = stackalloc IotlbPiece[8];
        IovaRange rest = part;
        while (true)
        {
            foreach (IotlbPiece piece in pieces[..iotlb.Table.Snapshot.Lookup(rest, access, pieces)])
            {
                if (piece.Kind != TranslationStatus.Translated)
                {
                    // What may not be used so is reported, and waited for all the same: a driver sets rings up in any order.
                    iotlb.Ask([part], access);
                    return false;
                }

                if (found.Count != 0 && found[^1].Address + found[^1].Length == piece.Host)
                {
                    found[^1] = (found[^1].Address, found[^1].Length + piece.Range.Length);
                }
                else
                {
                    found.Add((piece.Host, piece.Range.Length));
                }

                if (piece.Range.Last == part.Last)
                {
                    return true;
                }

                rest = new IovaRange(piece.Range.Last + 1, part.Last);
            }
        }
    }

    // A ring whose pages are not neighbours here gets a view in which they are, so that it needs no slower path. Where the kernel cannot
    // make one, as of parts of huge pages, each access looks its page up.
    private RingAddresses Assemble(
        Vring ring,
        List<(HostAddress Address, ulong Length)> descriptors,
        List<(HostAddress Address, ulong Length)> driver,
        List<(HostAddress Address, ulong Length)> device)
    {
        try
        {
            return new RingAddresses(InOnePiece(ring, descriptors), InOnePiece(ring, driver), InOnePiece(ring, device));
        }
        catch (LinuxException e)
        {
            ring.ForgetViews();
            int pieces = descriptors.Count + driver.Count + device.Count;
            if (Area(ring.Parts[0], descriptors) is not { } first || Area(ring.Parts[1], driver) is not { } second
                || Area(ring.Parts[2], device) is not { } third)
            {
                throw new VhostUserProtocolException($"ring {ring.Index} lies in {pieces} pieces that do not end where pages do");
            }

            if (!ring.IsKnownScattered)
            {
                // Once: it starts again each time that its translations change.
                ring.IsKnownScattered = true;
                log($"ring {ring.Index} lies in {pieces} pieces, and is slower for it: {e.Message}");
            }

            return RingAddresses.Scattered(first, second, third);
        }
    }

    private static RingArea? Area(IovaRange part, List<(HostAddress Address, ulong Length)> pieces) =>
        RingArea.TryOf(BusAddress.Of(part.First), CollectionsMarshal.AsSpan(pieces));

    private HostAddress InOnePiece(Vring ring, List<(HostAddress Address, ulong Length)> pieces) => pieces.Count == 1
        ? pieces[0].Address
        : new HostAddress((ulong)ring.View(mappings, [.. pieces.Select(p => ((nint)p.Address.Value, p.Length))]).Address);

    private static IovaRange Part(Vring ring, FrontendAddress address, uint length) =>
        unchecked(address.Value + (length - 1)) >= address.Value
            ? IovaRange.Of(new Iova(address.Value), length)
            : throw new VhostUserProtocolException($"ring {ring.Index}: {length} bytes at {address} pass the end of the address space");
}
