namespace Vfio;

/// <summary>How far an answer about written pages can be trusted.</summary>
public enum DirtyPrecision
{
    /// <summary>No source could tell: every page is named, and any of them may be clean.</summary>
    Unknown,

    /// <summary>Every written page is named, and clean ones may be too.</summary>
    Superset,

    /// <summary>The pages named are those that were written, no more and no fewer.</summary>
    Exact,
}
