using System.Globalization;

namespace Vfio.Virtio;

/// <summary>The address in a descriptor: what the device is to put on its bus.</summary>
/// <param name="Value">The address in bytes.</param>
/// <remarks>It is its own type because the ring does not know which space it is in: with VIRTIO_F_ACCESS_PLATFORM it is an
/// <see cref="Iova"/>, without it a guest physical address. The translator, which knows what was negotiated, turns it into the
/// one or the other. Nothing is computed with it unchecked: a peer chose it.</remarks>
public readonly record struct BusAddress(ulong Value)
{
    /// <summary>The address at which a device finds a byte of pinned memory.</summary>
    /// <param name="iova">Where the byte is mapped for the device.</param>
    /// <returns>The same number.</returns>
    public static BusAddress Of(Iova iova) => new(iova.Value);

    /// <inheritdoc/>
    public override string ToString() => "0x" + Value.ToString("x", CultureInfo.InvariantCulture);
}
