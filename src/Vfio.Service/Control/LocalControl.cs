using Vfio.Linux;

namespace Vfio.Service;

/// <summary>Operations on an engine in this process: no daemon, no socket.</summary>
public sealed class LocalControl : IControl
{
    private readonly Engine _engine;

    /// <summary>Makes the engine, which is disposed with this.</summary>
    /// <param name="kernel">The kernel; the running one by default.</param>
    /// <param name="sysfs">Where <c>/sys</c> and <c>/proc</c> are; the real ones by default.</param>
    public LocalControl(IKernel? kernel = null, Sysfs? sysfs = null) => _engine = new Engine(kernel, sysfs);

    /// <inheritdoc/>
    public TResult Invoke<TParameters, TResult>(
        Operation<TParameters, TResult> operation, TParameters parameters, OperationContext context)
        where TParameters : class
        where TResult : class
    {
        ArgumentNullException.ThrowIfNull(operation);
        return operation.Run(_engine, parameters, context);
    }

    /// <inheritdoc/>
    public void Dispose() => _engine.Dispose();
}
