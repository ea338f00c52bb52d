using System.Collections.Frozen;

namespace Vfio.Service;

/// <summary>Everything that the engine does, by the method's name on the control socket.</summary>
public static class Operations
{
    /// <summary>All operations.</summary>
    public static IReadOnlyList<Operation> All { get; } =
    [
        DaemonOperations.Info,
        PoolOperations.Plan,
        PoolOperations.Create,
        PoolOperations.List,
        PoolOperations.Show,
        PoolOperations.Grow,
        PoolOperations.Shrink,
        PoolOperations.Destroy,
        AttachOperations.Attach,
        DirtyOperations.Start,
        DirtyOperations.Stop,
        DirtyOperations.Look,
        DirtyOperations.Export,
        DirtyOperations.Restore,
        BlockOperations.Info,
        BlockOperations.Read,
        BlockOperations.Write,
        PortOperations.Add,
        PortOperations.List,
        PortOperations.Show,
        PortOperations.Remove,
        CardOperations.Info,
        CardOperations.Forward,
    ];

    // Below All, which it is made from: static initialisers run in the order of the text.
    private static readonly FrozenDictionary<string, Operation> ByMethod = All.ToFrozenDictionary(o => o.Method);

    /// <summary>The operation of a name.</summary>
    /// <param name="method">The name, such as <c>pool.create</c>.</param>
    /// <returns>The operation, or null when there is none.</returns>
    public static Operation? Find(string method) => ByMethod.GetValueOrDefault(method);
}
