namespace Vfio.VhostUser;

/// <summary>A piece of a range that was looked up, all of one kind and, where mapped, all together in this process.</summary>
/// <param name="Kind">Whether it may be used.</param>
/// <param name="Range">The IOVAs.</param>
/// <param name="Host">Where the first byte is, if <paramref name="Kind"/> is <see cref="IotlbPieceKind.Mapped"/>.</param>
public readonly record struct IotlbPiece(IotlbPieceKind Kind, IovaRange Range, HostAddress Host);
