namespace Vfio.Service;

/// <summary>Operations on an engine in this process: no daemon, no socket.</summary>
/// <param name="engine">The engine, owned: disposed with this.</param>
public sealed class LocalControl(Engine engine) : IControl
{
    /// <inheritdoc/>
    public TResult Invoke<TParameters, TResult>(
        Operation<TParameters, TResult> operation, TParameters parameters, OperationContext context)
        where TParameters : class
        where TResult : class
    {
        ArgumentNullException.ThrowIfNull(operation);
        return operation.Run(engine, parameters, context);
    }

    /// <inheritdoc/>
    public void Dispose() => engine.Dispose();
}
