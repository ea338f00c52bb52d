using System.CommandLine;
using System.CommandLine.Parsing;

namespace Vfio.Cli;

/// <summary>PCI addresses on the command line.</summary>
internal static class AddressParser
{
    /// <summary>One address.</summary>
    public static Argument<PciAddress> One() => new("BDF")
    {
        Description = "The device's PCI address, such as 0000:00:04.0",
        CustomParser = result => Parse(result, result.Tokens[0].Value),
    };

    /// <summary>One address, or none.</summary>
    public static Argument<PciAddress?> OneOrNone() => new("BDF")
    {
        Description = "The device's PCI address, such as 0000:00:04.0",
        Arity = ArgumentArity.ZeroOrOne,
        DefaultValueFactory = _ => null,
        CustomParser = result => result.Tokens.Count == 0 ? null : Parse(result, result.Tokens[0].Value),
    };

    /// <summary>One address or more.</summary>
    public static Argument<PciAddress[]> Some() => new("BDF")
    {
        Description = "PCI addresses, such as 0000:00:04.0",
        Arity = ArgumentArity.OneOrMore,
        CustomParser = result => [.. result.Tokens.Select(t => Parse(result, t.Value))],
    };

    /// <summary>An option that takes addresses.</summary>
    public static Option<PciAddress[]> Option(string name, string description, bool required) => new(name)
    {
        Description = description,
        HelpName = "BDF",
        Required = required,
        Arity = required ? ArgumentArity.OneOrMore : ArgumentArity.ZeroOrMore,
        CustomParser = result => [.. result.Tokens.Select(t => Parse(result, t.Value))],
    };

    private static PciAddress Parse(ArgumentResult result, string text)
    {
        if (PciAddress.TryParse(text, null, out PciAddress address))
        {
            return address;
        }

        result.AddError($"\"{text}\" is no PCI address; one looks like 0000:00:04.0");
        return default;
    }
}
