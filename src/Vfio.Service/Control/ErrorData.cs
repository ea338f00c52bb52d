using Vfio.Linux;

namespace Vfio.Service;

/// <summary>A failed operation on the wire: the parts of a <see cref="LinuxException"/>, so that the client's message is the
/// same as in the process where it failed.</summary>
/// <param name="Call">The call that failed.</param>
/// <param name="Errno">The error's name, such as <c>ENOMEM</c>, or its number where it has none.</param>
/// <param name="Number">The error's number.</param>
/// <param name="Detail">What the call was about.</param>
/// <param name="Cause">Why it failed, or null.</param>
/// <param name="Cure">What the user can do, or null.</param>
public sealed record ErrorData(string Call, string Errno, int Number, string Detail, string? Cause, string? Cure)
{
    /// <summary>The parts of an exception.</summary>
    /// <param name="exception">The exception.</param>
    /// <returns>Its parts.</returns>
    public static ErrorData Of(LinuxException exception)
    {
        ArgumentNullException.ThrowIfNull(exception);
        return new ErrorData(
            exception.Call, exception.Errno.ToString(), (int)exception.Errno, exception.Detail, exception.Cause, exception.Cure);
    }

    /// <summary>The exception of these parts.</summary>
    /// <returns>The exception, to throw.</returns>
    public LinuxException ToException() => new(Call, (Errno)Number, Detail, Cause, Cure);
}
