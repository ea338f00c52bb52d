namespace Vfio.Service;

/// <summary>Names a port.</summary>
/// <param name="Name">The port.</param>
public sealed record PortName(string Name);

/// <summary>Operations on network ports.</summary>
public static class PortOperations
{
    /// <summary>Adds a port.</summary>
    public static Operation<PortRequest, PortInfo> Add { get; } = new(
        "port.add",
        static json => json.PortRequest,
        static json => json.PortInfo,
        static (engine, request, context) => engine.Ports.Add(request, context));

    /// <summary>Lists the ports.</summary>
    public static Operation<NoParameters, PortInfo[]> List { get; } = new(
        "port.list",
        static json => json.NoParameters,
        static json => json.PortInfoArray,
        static (engine, _, _) => engine.Ports.List());

    /// <summary>Shows a port.</summary>
    public static Operation<PortName, PortInfo> Show { get; } = new(
        "port.show",
        static json => json.PortName,
        static json => json.PortInfo,
        static (engine, port, _) => engine.Ports.Get(port.Name));

    /// <summary>Ends a port's session, removes the port and gives its memory back; shows what it did until then.</summary>
    public static Operation<PortName, PortInfo> Remove { get; } = new(
        "port.remove",
        static json => json.PortName,
        static json => json.PortInfo,
        static (engine, port, _) => engine.Ports.Remove(port.Name));
}
