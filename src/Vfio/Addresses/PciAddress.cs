using System.Diagnostics.CodeAnalysis;
using System.Globalization;

namespace Vfio;

/// <summary>The address of a PCI function: domain, bus, device, function, written <c>0000:00:04.0</c>.</summary>
public readonly record struct PciAddress : IParsable<PciAddress>, IComparable<PciAddress>
{
    private readonly uint _value;

    private PciAddress(uint value) => _value = value;

    /// <summary>The PCI domain (segment), 16 bits.</summary>
    public int Domain => (int)(_value >> 16);

    /// <summary>The bus, 8 bits.</summary>
    public int Bus => (int)((_value >> 8) & 0xff);

    /// <summary>The device (slot), 5 bits.</summary>
    public int Device => (int)((_value >> 3) & 0x1f);

    /// <summary>The function, 3 bits.</summary>
    public int Function => (int)(_value & 7);

    /// <summary>Compares in bus order.</summary>
    public static bool operator <(PciAddress left, PciAddress right) => left._value < right._value;

    /// <summary>Compares in bus order.</summary>
    public static bool operator >(PciAddress left, PciAddress right) => left._value > right._value;

    /// <summary>Compares in bus order.</summary>
    public static bool operator <=(PciAddress left, PciAddress right) => left._value <= right._value;

    /// <summary>Compares in bus order.</summary>
    public static bool operator >=(PciAddress left, PciAddress right) => left._value >= right._value;

    /// <summary>Reads <c>DDDD:BB:DD.F</c>; the domain may be left out and is then 0000.</summary>
    /// <param name="s">The text.</param>
    /// <param name="provider">Not used.</param>
    /// <returns>The address.</returns>
    /// <exception cref="FormatException">The text is not such an address.</exception>
    public static PciAddress Parse(string s, IFormatProvider? provider = null) =>
        TryParse(s, provider, out PciAddress address)
            ? address
            : throw new FormatException($"\"{s}\" is no PCI address; one looks like 0000:00:04.0");

    /// <summary>Reads <c>DDDD:BB:DD.F</c>; the domain may be left out and is then 0000.</summary>
    /// <param name="s">The text.</param>
    /// <param name="provider">Not used.</param>
    /// <param name="result">The address.</param>
    /// <returns>False when the text is not such an address.</returns>
    public static bool TryParse([NotNullWhen(true)] string? s, IFormatProvider? provider, out PciAddress result)
    {
        result = default;
        string[] parts = (s ?? string.Empty).Split(':');
        if (parts.Length is < 2 or > 3)
        {
            return false;
        }

        string[] slot = parts[^1].Split('.');
        uint domain = 0;
        if (slot.Length != 2
            || (parts.Length == 3 && !TryHex(parts[0], 4, 0xffff, out domain))
            || !TryHex(parts[^2], 2, 0xff, out uint bus)
            || !TryHex(slot[0], 2, 0x1f, out uint device)
            || !TryHex(slot[1], 1, 7, out uint function))
        {
            return false;
        }

        result = new PciAddress((domain << 16) | (bus << 8) | (device << 3) | function);
        return true;
    }

    /// <inheritdoc/>
    public int CompareTo(PciAddress other) => _value.CompareTo(other._value);

    /// <inheritdoc/>
    public override string ToString() =>
        string.Create(CultureInfo.InvariantCulture, $"{Domain:x4}:{Bus:x2}:{Device:x2}.{Function:x}");

    private static bool TryHex(string text, int digits, uint most, out uint value)
    {
        value = 0;
        return text.Length >= 1 && text.Length <= digits
            && uint.TryParse(text, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out value) && value <= most;
    }
}
