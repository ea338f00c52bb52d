namespace Vfio.Service;

/// <summary>Names a pool.</summary>
/// <param name="Name">The pool.</param>
public sealed record PoolName(string Name);

/// <summary>Names a pool and a number of bytes.</summary>
/// <param name="Name">The pool.</param>
/// <param name="Bytes">Bytes.</param>
public sealed record PoolChange(string Name, ulong Bytes);

/// <summary>Memory that a pool shall grow by.</summary>
/// <param name="Name">The pool.</param>
/// <param name="Bytes">Bytes.</param>
public sealed record PoolGrowth(string Name, ulong Bytes)
{
    /// <summary>Threads that populate it, at most <see cref="PoolRequest.MostPopulateThreads"/>; 0 for one per processor, null for as
    /// many as when the pool was made.</summary>
    public int? PopulateThreads { get; init; }
}

/// <summary>Operations on pools.</summary>
public static class PoolOperations
{
    /// <summary>Says what making a pool would do.</summary>
    public static Operation<PoolRequest, PoolPlanInfo> Plan { get; } = new(
        "pool.plan",
        static json => json.PoolRequest,
        static json => json.PoolPlanInfo,
        static (engine, request, context) => engine.PlanPool(request, context));

    /// <summary>Makes a pool.</summary>
    public static Operation<PoolRequest, PoolInfo> Create { get; } = new(
        "pool.create",
        static json => json.PoolRequest,
        static json => json.PoolInfo,
        static (engine, request, context) => PoolInfo.Of(engine.CreatePool(request, context)));

    /// <summary>Lists the pools.</summary>
    public static Operation<NoParameters, PoolInfo[]> List { get; } = new(
        "pool.list",
        static json => json.NoParameters,
        static json => json.PoolInfoArray,
        static (engine, _, _) => [.. engine.Pools.Select(PoolInfo.Of)]);

    /// <summary>Shows a pool.</summary>
    public static Operation<PoolName, PoolInfo> Show { get; } = new(
        "pool.show",
        static json => json.PoolName,
        static json => json.PoolInfo,
        static (engine, pool, _) => PoolInfo.Of(engine.GetPool(pool.Name)));

    /// <summary>Adds memory to a pool.</summary>
    public static Operation<PoolGrowth, PoolInfo> Grow { get; } = new(
        "pool.grow",
        static json => json.PoolGrowth,
        static json => json.PoolInfo,
        static (engine, growth, context) =>
        {
            PoolRequest.DemandThreads(growth.PopulateThreads ?? 0);
            var progress = new ProgressMeter("populating", context.Progress);
            return engine.ChangePool(growth.Name, "pool grow", PoolShare.Lent, pool => pool.Grow(growth.Bytes, progress, growth.PopulateThreads));
        });

    /// <summary>Takes memory off a pool.</summary>
    public static Operation<PoolChange, PoolInfo> Shrink { get; } = new(
        "pool.shrink",
        static json => json.PoolChange,
        static json => json.PoolInfo,
        static (engine, change, _) => engine.ChangePool(change.Name, "pool shrink", PoolShare.Cuts, pool => pool.Shrink(change.Bytes)));

    /// <summary>Unpins a pool and gives its memory back; closes its devices when it was the last that they reach.</summary>
    public static Operation<PoolName, PoolName> Destroy { get; } = new(
        "pool.destroy",
        static json => json.PoolName,
        static json => json.PoolName,
        static (engine, pool, _) =>
        {
            engine.DestroyPool(pool.Name);
            return pool;
        });
}
