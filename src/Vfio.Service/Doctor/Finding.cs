namespace Vfio.Service;

/// <summary>How bad a finding is.</summary>
public enum FindingStatus
{
    /// <summary>As it should be.</summary>
    Ok,

    /// <summary>It works, with something lost or at risk.</summary>
    Warning,

    /// <summary>It cannot work.</summary>
    Failure,
}

/// <summary>One thing that the doctor looked at.</summary>
/// <param name="Subject">What was looked at, such as <c>interrupt remapping</c>.</param>
/// <param name="Status">How it is.</param>
/// <param name="Text">What was found.</param>
/// <param name="Cure">The command or setting that cures it, or null where nothing is wrong.</param>
public sealed record Finding(string Subject, FindingStatus Status, string Text, string? Cure);

/// <summary>Everything that the doctor found.</summary>
/// <param name="Findings">The findings, from the machine to the device.</param>
public sealed record DoctorReport(IReadOnlyList<Finding> Findings)
{
    /// <summary>The worst of the findings.</summary>
    public FindingStatus Worst => Findings.Count == 0 ? FindingStatus.Ok : Findings.Max(f => f.Status);
}
