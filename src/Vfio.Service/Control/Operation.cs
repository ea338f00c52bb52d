using System.Text.Json;
using System.Text.Json.Serialization.Metadata;

namespace Vfio.Service;

/// <summary>One thing that the engine does, by its name on the control socket. The same object serves a call in this process
/// and a call over the socket, so that nothing is written twice.</summary>
public abstract class Operation
{
    private protected Operation(string method) => Method = method;

    /// <summary>The method's name in JSON-RPC, such as <c>pool.create</c>.</summary>
    public string Method { get; }

    /// <summary>Reads the parameters, runs the operation and writes the result.</summary>
    /// <param name="engine">The engine.</param>
    /// <param name="parameters">The parameters, an object.</param>
    /// <param name="context">What goes along with the call.</param>
    /// <param name="answer">Gets the result.</param>
    /// <exception cref="JsonException">The parameters do not fit.</exception>
    internal abstract void Serve(Engine engine, JsonElement parameters, OperationContext context, Utf8JsonWriter answer);
}

/// <summary>An operation with its parameters and its result.</summary>
/// <typeparam name="TParameters">The parameters.</typeparam>
/// <typeparam name="TResult">The result.</typeparam>
public sealed class Operation<TParameters, TResult> : Operation
    where TParameters : class
    where TResult : class
{
    private readonly Func<Engine, TParameters, OperationContext, TResult> _handler;
    private readonly Func<ServiceJson, JsonTypeInfo<TParameters>> _parameters;
    private readonly Func<ServiceJson, JsonTypeInfo<TResult>> _result;

    /// <summary>Defines an operation.</summary>
    /// <param name="method">Its name in JSON-RPC.</param>
    /// <param name="parameters">How its parameters are written.</param>
    /// <param name="result">How its result is written.</param>
    /// <param name="handler">What it does.</param>
    public Operation(
        string method,
        Func<ServiceJson, JsonTypeInfo<TParameters>> parameters,
        Func<ServiceJson, JsonTypeInfo<TResult>> result,
        Func<Engine, TParameters, OperationContext, TResult> handler)
        : base(method)
    {
        _parameters = parameters;
        _result = result;
        _handler = handler;
    }

    // Asked for only when something is written: to make it compiles hundreds of small methods, and a command needs one or two of them.

    /// <summary>How the parameters are written.</summary>
    public JsonTypeInfo<TParameters> ParametersJson => _parameters(ServiceJson.Default);

    /// <summary>How the result is written; also for <c>-o json</c>.</summary>
    public JsonTypeInfo<TResult> ResultJson => _result(ServiceJson.Default);

    /// <summary>Runs the operation.</summary>
    /// <param name="engine">The engine.</param>
    /// <param name="parameters">The parameters.</param>
    /// <param name="context">What goes along with the call.</param>
    /// <returns>The result.</returns>
    public TResult Run(Engine engine, TParameters parameters, OperationContext context) => _handler(engine, parameters, context);

    internal override void Serve(Engine engine, JsonElement parameters, OperationContext context, Utf8JsonWriter answer)
    {
        TParameters typed = parameters.Deserialize(ParametersJson) ?? throw new JsonException("params is null");
        JsonSerializer.Serialize(answer, Run(engine, typed, context), ResultJson);
    }
}
