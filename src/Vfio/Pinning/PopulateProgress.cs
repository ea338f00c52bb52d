namespace Vfio;

/// <summary>How far populating memory is.</summary>
/// <param name="Done">Bytes whose pages exist now.</param>
/// <param name="Total">Bytes in all.</param>
public readonly record struct PopulateProgress(ulong Done, ulong Total);
