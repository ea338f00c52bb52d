namespace Vfio;

/// <summary>What a pool has lent out.</summary>
/// <param name="Buffers">Rented buffers.</param>
/// <param name="Pieces">Allocated pieces.</param>
/// <param name="Bytes">Bytes of both.</param>
/// <param name="Renters">Who rented each buffer, where the pool watches that.</param>
public sealed record PoolUse(long Buffers, int Pieces, ulong Bytes, IReadOnlyList<string> Renters);
