using System.Globalization;
using Vfio.Linux;

namespace Vfio;

/// <summary>A limit that a plan does not keep, found before anything is touched.</summary>
/// <param name="Limit">The limit's name, such as <c>RLIMIT_MEMLOCK</c>.</param>
/// <param name="Call">The call that would fail.</param>
/// <param name="Errno">What it would fail with.</param>
/// <param name="Need">How much the plan needs, in <paramref name="Unit"/>.</param>
/// <param name="Have">How much there is, in <paramref name="Unit"/>.</param>
/// <param name="Unit">What is counted: <c>bytes</c>, <c>entries</c>, <c>pages of 2MiB</c>.</param>
/// <param name="Cause">Why it cannot work.</param>
/// <param name="Cure">What to do about it.</param>
public sealed record PinProblem(
    string Limit, string Call, Errno Errno, ulong Need, ulong Have, string Unit, string Cause, string Cure)
{
    /// <summary>By how much the limit is passed.</summary>
    public ulong Excess => Need - Math.Min(Need, Have);

    /// <inheritdoc/>
    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture, $"{Limit}: {Amount(Need)} needed, {Amount(Have)} there, {Amount(Excess)} short. Cause: {Cause}. Cure: {Cure}");

    /// <summary>The problem as the exception that the call would have ended in.</summary>
    internal LinuxException Exception(string what) => new(
        Call, Errno, string.Create(CultureInfo.InvariantCulture, $"{what}: {Limit}: {Amount(Need)} needed, {Amount(Have)} there, {Amount(Excess)} short"), Cause, Cure);

    private string Amount(ulong value) => Unit == "bytes" ? ByteSize.Text(value) : string.Create(CultureInfo.InvariantCulture, $"{value} {Unit}");
}
