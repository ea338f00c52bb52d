namespace Vfio.VhostUser;

/// <summary>One translation that the front-end told us: a range that the device may use, and where it is in this process.</summary>
/// <param name="Range">The IOVAs.</param>
/// <param name="Host">Where the first byte is. Without meaning where <paramref name="Access"/> is <see cref="DmaAccess.None"/>.</param>
/// <param name="Access">What the device may do there. <see cref="DmaAccess.None"/> is an answer too: the front-end knows the
/// range and forbids it.</param>
public readonly record struct IotlbRange(IovaRange Range, HostAddress Host, DmaAccess Access)
{
    /// <summary>Where an address of the range is in this process.</summary>
    /// <param name="address">Inside <see cref="Range"/>.</param>
    /// <returns>The host address.</returns>
    public HostAddress At(Iova address) => Host + (address - Range.First);

    /// <summary>The part from an address on.</summary>
    /// <param name="first">Inside <see cref="Range"/>.</param>
    /// <returns>The part.</returns>
    internal IotlbRange From(Iova first) => new(new IovaRange(first, Range.Last), At(first), Access);

    /// <summary>The part up to an address.</summary>
    /// <param name="last">Inside <see cref="Range"/>.</param>
    /// <returns>The part.</returns>
    internal IotlbRange Until(Iova last) => new(new IovaRange(Range.First, last), Host, Access);

    /// <summary>Whether the two are one: contiguous here and there, and the access the same.</summary>
    /// <param name="next">A range behind this one.</param>
    /// <returns>True when they may be merged.</returns>
    internal bool Continues(IotlbRange next) =>
        Range.Last.Value != ulong.MaxValue && Range.Last.Value + 1 == next.Range.First.Value && Access == next.Access
        && (Access == DmaAccess.None || unchecked(Host.Value + (next.Range.First.Value - Range.First.Value)) == next.Host.Value);
}
