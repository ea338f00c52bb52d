namespace Vfio;

/// <summary>What happens when some of the pages cannot be pinned.</summary>
public enum PinPolicy
{
    /// <summary>Everything is undone, and the error is thrown.</summary>
    AllOrNothing,

    /// <summary>What can be pinned stays pinned, and the pages that cannot are returned with their causes.</summary>
    BestEffort,
}
