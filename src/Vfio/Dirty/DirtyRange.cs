namespace Vfio;

/// <summary>Neighbouring dirty pages.</summary>
/// <param name="First">Where they start in the pool, a multiple of 4 KiB.</param>
/// <param name="Length">Bytes, whole pages.</param>
public readonly record struct DirtyRange(PoolOffset First, ulong Length);
