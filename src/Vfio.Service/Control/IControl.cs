namespace Vfio.Service;

/// <summary>Where operations run: an engine in this process, or a daemon over its socket. Errors are the same in both.</summary>
public interface IControl : IDisposable
{
    /// <summary>Runs an operation.</summary>
    /// <typeparam name="TParameters">Its parameters.</typeparam>
    /// <typeparam name="TResult">Its result.</typeparam>
    /// <param name="operation">The operation.</param>
    /// <param name="parameters">The parameters.</param>
    /// <param name="context">What goes along with the call.</param>
    /// <returns>The result.</returns>
    /// <exception cref="Linux.LinuxException">It failed; call, errno, cause and cure are told.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    TResult Invoke<TParameters, TResult>(
        Operation<TParameters, TResult> operation, TParameters parameters, OperationContext context)
        where TParameters : class
        where TResult : class;
}
