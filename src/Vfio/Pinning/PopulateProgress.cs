namespace Vfio;

/// <summary>How far populating memory is. Several threads tell it, so that a smaller number may come after a larger one.</summary>
/// <param name="Done">Bytes whose pages exist now.</param>
/// <param name="Total">Bytes in all.</param>
public readonly record struct PopulateProgress(ulong Done, ulong Total);
