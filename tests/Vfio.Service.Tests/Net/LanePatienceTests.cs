namespace Vfio.Service.Tests;

[TestClass]
public sealed class LanePatienceTests
{
    // When the first frame came.
    private static readonly long Start = 5 * LanePatience.ForTranslations;
    private static readonly long Buffers = LanePatience.ForBuffers;
    private static readonly long Translations = LanePatience.ForTranslations;

    [TestMethod]
    public void A_frame_waits_for_a_buffer_for_its_time_and_later_ones_not_at_all()
    {
        LanePatience patience = default;
        Assert.IsFalse(patience.Try(Start, false));
        Assert.IsFalse(patience.Try(Start + Buffers - 1, false));
        Assert.IsTrue(patience.Try(Start + Buffers, false));
        Assert.IsTrue(patience.Try(Start + Buffers + 1, false));
    }

    [TestMethod]
    public void A_translation_is_waited_for_longer_and_given_up_too()
    {
        LanePatience patience = default;
        for (long now = Start; now < Start + Translations; now += Buffers)
        {
            Assert.IsFalse(patience.Try(now, true));
        }

        Assert.IsTrue(patience.Try(Start + Translations, true));
        Assert.IsTrue(patience.Try(Start + Translations + 1, true), "each frame waits for it anew");
    }

    [TestMethod]
    public void A_ring_that_goes_away_for_a_moment_does_not_shorten_the_time_for_a_translation()
    {
        LanePatience patience = default;
        Assert.IsFalse(patience.Try(Start, true));
        Assert.IsFalse(patience.Try(Start + (2 * Buffers), false));
        Assert.IsFalse(patience.Try(Start + Translations - 1, true));
        Assert.IsTrue(patience.Try(Start + Translations, false));
    }

    [TestMethod]
    public void Buffers_that_are_there_at_last_get_the_time_for_their_translations()
    {
        LanePatience patience = default;
        patience.Try(Start, false);
        Assert.IsTrue(patience.Try(Start + Buffers, false));
        long later = Start + (2 * Buffers);
        Assert.IsFalse(patience.Try(later, true));
        Assert.IsFalse(patience.Try(later + Translations - 1, true));
        Assert.IsTrue(patience.Try(later + Translations, true));
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void What_was_given_up_long_ago_is_tried_anew(bool isAsked)
    {
        LanePatience patience = default;
        long now = Start;
        patience.Try(now, isAsked);
        while (!patience.Try(now, isAsked))
        {
            now += Buffers;
        }

        Assert.IsTrue(patience.Try(now + Translations - 1, isAsked));
        Assert.IsFalse(patience.Try(now + (2 * Translations) - 1, isAsked));
    }
}
