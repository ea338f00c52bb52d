using System.Diagnostics;

namespace Vfio.Service;

/// <summary>How long the frames of a lane wait for a ring that takes none of them: for buffers a moment; longer for where buffers are, once
/// the front-end was asked for that, as they are there. After that no frame waits, until some were taken, buffers came, or nothing was
/// tried for as long as a translation may take.</summary>
/// <remarks>For one poller, which comes back all the time while frames wait. The default is a lane that nothing waits in.</remarks>
internal struct LanePatience
{
    /// <summary>Ticks of <see cref="Stopwatch"/> that a frame waits for a buffer.</summary>
    public static readonly long ForBuffers = Stopwatch.Frequency / 20;

    /// <summary>Ticks that it waits for a translation.</summary>
    public static readonly long ForTranslations = Stopwatch.Frequency;

    private long _since;
    private long _lastTried;
    private bool _isAsked;
    private bool _isOver;

    /// <summary>Says that nothing was taken once more.</summary>
    /// <param name="now">The time, in ticks of <see cref="Stopwatch"/>.</param>
    /// <param name="isAsked">Whether it is a translation that is missing. Once is enough for the whole time: a ring may go away for a moment
    /// meanwhile.</param>
    /// <returns>Whether what waits is not to wait any more.</returns>
    public bool Try(long now, bool isAsked)
    {
        // Nothing was tried for long, so these are most likely other frames; or buffers are there now, for want of which it was over.
        if (now - _lastTried >= ForTranslations || (_isOver && isAsked && !_isAsked))
        {
            this = default;
            _since = now;
        }

        _lastTried = now;
        _isAsked |= isAsked;
        _isOver |= now - _since >= (_isAsked ? ForTranslations : ForBuffers);
        return _isOver;
    }
}
