namespace Vfio.Service;

/// <summary>How a user uses a pool, which says whom it gets along with.</summary>
internal enum PoolShare
{
    /// <summary>Only memory that the pool lent to it.</summary>
    Lent,

    /// <summary>Reads all of it, by its addresses.</summary>
    Reads,

    /// <summary>Has all of it, as an attached process has.</summary>
    Whole,

    /// <summary>Takes memory off it.</summary>
    Cuts,
}
