namespace Vfio.Linux;

/// <summary>Part of a file, in bytes.</summary>
/// <param name="Offset">Its first byte.</param>
/// <param name="Length">How many; <c>Offset + Length</c> does not wrap.</param>
public readonly record struct FileRange(ulong Offset, ulong Length);
