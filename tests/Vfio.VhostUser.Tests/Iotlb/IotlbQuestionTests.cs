using Vfio.Virtio;

namespace Vfio.VhostUser.Tests;

[TestClass]
public sealed class IotlbQuestionTests
{
    // Behind all that a flood asks.
    private const ulong Beyond = IotlbQuestions.MaxPending * 0x1000ul;

    private readonly List<IotlbQuestion> _sent = [];

    [TestMethod]
    public void All_misses_of_a_burst_go_out_together_each_once()
    {
        var iotlb = new DeviceIotlb(missTimeout: TimeSpan.FromDays(1));
        int bursts = 0;
        using var view = new IotlbView(iotlb, questions =>
        {
            bursts++;
            return Send(questions);
        });
        iotlb.Update(new IotlbRange(IovaRange.Of(new Iova(0x2000), 0x1000), new HostAddress(0x5000), DmaAccess.ReadWrite));
        view.Begin();
        // Three pages around one that is known, a second buffer in the first page, and one page for writing.
        view.Translate(new Iova(0x1800), 0x2000, DmaAccess.Read, out _, out _);
        view.Translate(new Iova(0x1100), 0x100, DmaAccess.Read, out _, out _);
        view.Translate(new Iova(0x9000), 0x100, DmaAccess.Write, out _, out _);
        view.Ask();
        Assert.AreEqual(1, bursts);
        CollectionAssert.AreEquivalent(
            new[] { Miss(0x1000), Miss(0x3000), Miss(0x9000, DmaAccess.Write) }, _sent);
        Assert.AreEqual(3, iotlb.Counters.Pending);
        Assert.IsTrue(view.IsWaiting);
    }

    [TestMethod]
    public void A_second_queue_does_not_ask_again_and_an_update_answers()
    {
        var iotlb = new DeviceIotlb(missTimeout: TimeSpan.FromDays(1));
        using var first = new IotlbView(iotlb, Send);
        using var second = new IotlbView(iotlb, Send);
        Miss(first, 0x1000);
        Miss(second, 0x1000);
        Assert.HasCount(1, _sent);
        Assert.IsTrue(second.IsWaiting);
        iotlb.Update(new IotlbRange(IovaRange.Of(new Iova(0x1000), 0x1000), new HostAddress(0x5000), DmaAccess.Read));
        Assert.AreEqual(0, iotlb.Counters.Pending);
        Assert.IsFalse(second.IsWaiting);
        second.Begin();
        Assert.AreEqual(TranslationStatus.Translated, second.Translate(new Iova(0x1000), 1, DmaAccess.Read, out _, out _));
    }

    [TestMethod]
    public void A_batch_that_was_cut_short_is_known_as_such_until_the_next_one()
    {
        var iotlb = new DeviceIotlb(missTimeout: TimeSpan.FromDays(1));
        int room = 1;
        using var view = new IotlbView(iotlb, questions => Send(questions[..Math.Min(room, questions.Length)]));
        Assert.IsFalse(view.HasMissed);
        Miss(view, 0x1000);
        Assert.IsFalse(view.TryBegin());
        Assert.IsTrue(view.HasMissed);
        iotlb.Update(new IotlbRange(IovaRange.Of(new Iova(0x1000), 0x1000), new HostAddress(0x5000), DmaAccess.Read));
        Assert.IsTrue(view.HasMissed && !view.IsWaiting, "the answer came, and the batch was cut short all the same");
        Assert.IsTrue(view.TryBegin());
        Assert.IsFalse(view.HasMissed);
        room = 0;
        Miss(view, 0x2000);
        Assert.IsTrue(view.HasMissed, "nobody could be asked");
    }

    [TestMethod]
    public void What_is_asked_ahead_of_need_is_not_waited_for()
    {
        var iotlb = new DeviceIotlb();
        using var view = new IotlbView(iotlb, Send);
        view.Begin();
        view.Translate(new Iova(0x1000), 1, DmaAccess.Read, out _, out _);
        view.Ask(cutShort: false);
        Assert.HasCount(1, _sent);
        Assert.IsFalse(view.HasMissed || view.IsWaiting);
        Assert.IsTrue(view.TryBegin());
    }

    [TestMethod]
    public void A_burst_that_misses_more_than_can_be_asked_at_once_waits_too()
    {
        var iotlb = new DeviceIotlb(missTimeout: TimeSpan.FromDays(1));
        using var view = new IotlbView(iotlb, Send);
        view.Begin();
        for (ulong page = 0; page < 600; page++)
        {
            view.Translate(new Iova(page * 0x2000), 1, DmaAccess.Read, out _, out _);
        }

        view.Ask();
        Assert.HasCount(512, _sent);
        Assert.IsTrue(view.IsWaiting, "it would ask at every poll");
    }

    [TestMethod]
    public void A_miss_that_could_not_be_sent_is_asked_again()
    {
        var iotlb = new DeviceIotlb();
        int room = 1;
        using var view = new IotlbView(iotlb, questions => Send(questions[..Math.Min(room, questions.Length)]));
        view.Begin();
        view.Translate(new Iova(0x1000), 1, DmaAccess.Read, out _, out _);
        view.Translate(new Iova(0x2000), 1, DmaAccess.Read, out _, out _);
        view.Ask();
        Assert.AreEqual(1, iotlb.Counters.Pending);
        Assert.IsFalse(view.IsWaiting, "what was not sent will never be answered");
        room = 9;
        Miss(view, 0x2000);
        Assert.HasCount(2, _sent);
    }

    [TestMethod]
    public void An_unanswered_miss_is_asked_again_after_its_time_and_not_before()
    {
        var patient = new DeviceIotlb(missTimeout: TimeSpan.FromDays(1));
        using var waits = new IotlbView(patient, Send);
        Miss(waits, 0x1000);
        Miss(waits, 0x1000);
        Assert.HasCount(1, _sent);
        var hasty = new DeviceIotlb(missTimeout: TimeSpan.Zero);
        using var asks = new IotlbView(hasty, Send);
        Miss(asks, 0x1000);
        Assert.IsFalse(asks.IsWaiting);
        Miss(asks, 0x1000);
        Assert.HasCount(3, _sent);
        Assert.AreEqual(1, hasty.Counters.Pending);
    }

    [TestMethod]
    [DataRow(DmaAccess.Read)]
    [DataRow(DmaAccess.Write)]
    [DataRow(DmaAccess.ReadWrite)]
    public void What_was_answered_and_taken_away_is_asked_again(DmaAccess access)
    {
        var iotlb = new DeviceIotlb(missTimeout: TimeSpan.FromDays(1));
        var question = new IotlbQuestion(new Iova(0x1000), access, false);
        var page = IovaRange.Of(question.Address, IotlbQuestion.PageSize);
        var sent = new IotlbQuestion[1];
        Assert.AreEqual(1, iotlb.Questions.Pick([question], sent));
        iotlb.Update(new IotlbRange(page, new HostAddress(0x5000), DmaAccess.ReadWrite));
        iotlb.Invalidate(page);
        Assert.AreEqual(1, iotlb.Questions.Pick([question], sent));
    }

    [TestMethod]
    public void A_miss_is_asked_again_sooner_once_a_later_one_was_answered()
    {
        var questions = new IotlbQuestions(new DeviceIotlb(), TimeSpan.Zero, TimeSpan.FromDays(1));
        var first = new IotlbQuestion(new Iova(0x1000), DmaAccess.Read, false);
        var second = new IotlbQuestion(new Iova(0x2000), DmaAccess.Read, false);
        var sent = new IotlbQuestion[1];
        Assert.AreEqual(1, questions.Pick([first], sent));
        Assert.AreEqual(1, questions.Pick([second], sent));
        Assert.AreEqual(0, questions.Pick([first], sent), "the answer may still be on its way");
        questions.Answer(IovaRange.Of(second.Address, IotlbQuestion.PageSize));
        Assert.AreEqual(1, questions.Pick([first], sent), "answers come in order, so none will come");
        Assert.AreEqual(0, questions.Pick([first], sent));
    }

    [TestMethod]
    public void What_was_answered_since_the_batch_began_is_not_asked_again()
    {
        var iotlb = new DeviceIotlb();
        using var view = new IotlbView(iotlb, Send);
        view.Begin();
        view.Translate(new Iova(0x1000), 1, DmaAccess.Write, out _, out _);
        view.Translate(new Iova(0x2000), 1, DmaAccess.Write, out _, out _);
        iotlb.Update(new IotlbRange(IovaRange.Of(new Iova(0x1000), 0x1000), new HostAddress(0x5000), DmaAccess.ReadWrite));
        view.Ask();
        CollectionAssert.AreEqual(new[] { new IotlbQuestion(new Iova(0x2000), DmaAccess.Write, false) }, _sent);
        Assert.IsFalse(view.IsWaiting, "what came meanwhile is worth another try");
    }

    [TestMethod]
    public void A_refusal_is_reported_once_until_the_range_is_told_or_taken_anew()
    {
        var iotlb = new DeviceIotlb(missTimeout: TimeSpan.Zero);
        using var view = new IotlbView(iotlb, Send);
        var readable = new IotlbRange(IovaRange.Of(new Iova(0x1000), 0x4000), new HostAddress(0x5000), DmaAccess.Read);
        iotlb.Update(readable);
        Refuse(view);
        Refuse(view);
        CollectionAssert.AreEqual(new[] { new IotlbQuestion(new Iova(0x2000), DmaAccess.Write, true) }, _sent);
        Assert.AreEqual(0, iotlb.Counters.Pending, "a refusal waits for nothing");
        Assert.AreEqual(2, iotlb.Counters.AccessFailures);
        iotlb.Invalidate(readable.Range);
        iotlb.Update(readable);
        Refuse(view);
        Assert.HasCount(2, _sent);
    }

    [TestMethod]
    public void A_refusal_that_could_not_be_sent_is_sent_with_the_next_question_and_once()
    {
        var iotlb = new DeviceIotlb();
        int room = 0;
        int Bounded(ReadOnlySpan<IotlbQuestion> questions) => Send(questions[..Math.Min(room, questions.Length)]);
        using var broken = new IotlbView(iotlb, Bounded);
        using var other = new IotlbView(iotlb, Bounded);
        iotlb.Update(new IotlbRange(IovaRange.Of(new Iova(0x1000), 0x4000), new HostAddress(0x5000), DmaAccess.Read));
        Refuse(broken);
        Assert.IsEmpty(_sent);
        Assert.IsTrue(iotlb.Questions.HasUnsent);
        room = 9;
        Miss(other, 0x9000);
        CollectionAssert.AreEqual(new[] { Miss(0x9000), new IotlbQuestion(new Iova(0x2000), DmaAccess.Write, true) }, _sent);
        Assert.IsFalse(iotlb.Questions.HasUnsent);
        Refuse(broken);
        Miss(other, 0xa000);
        Assert.HasCount(3, _sent);
    }

    [TestMethod]
    public void A_refusal_behind_more_misses_than_a_burst_asks_for_is_reported()
    {
        var iotlb = new DeviceIotlb();
        using var view = new IotlbView(iotlb, Send);
        iotlb.Update(new IotlbRange(IovaRange.Of(new Iova(0x1000), 0x4000), new HostAddress(0x5000), DmaAccess.Read));
        view.Begin();
        for (uint i = 0; i < 20; i++)
        {
            view.Translate(new Iova(0x100_0000 + (i * 0x10_0000ul)), 0x10_0000, DmaAccess.Read, out _, out _);
        }

        view.Translate(new Iova(0x2010), 0x100, DmaAccess.Write, out _, out _);
        view.Ask();
        Assert.HasCount(512 + 1, _sent);
        Assert.AreEqual(new IotlbQuestion(new Iova(0x2000), DmaAccess.Write, true), _sent[^1]);
    }

    [TestMethod]
    public void A_refusal_that_was_not_sent_is_forgotten_when_its_range_is_told_anew()
    {
        var iotlb = new DeviceIotlb();
        using var view = new IotlbView(iotlb, questions => 0);
        var readable = new IotlbRange(IovaRange.Of(new Iova(0x1000), 0x4000), new HostAddress(0x5000), DmaAccess.Read);
        iotlb.Update(readable);
        Refuse(view);
        iotlb.Update(readable with { Access = DmaAccess.ReadWrite });
        Assert.IsFalse(iotlb.Questions.HasUnsent);
        Assert.AreEqual(0, iotlb.Questions.Pick([], new IotlbQuestion[9]));
    }

    [TestMethod]
    public void Refusals_are_bounded_and_take_no_room_from_misses()
    {
        var iotlb = new DeviceIotlb();
        var send = new IotlbQuestion[IotlbRefusals.Most + 9];
        IotlbQuestion[] refusals = [.. Enumerable.Range(0, IotlbRefusals.Most + 5)
            .Select(i => new IotlbQuestion(new Iova((ulong)i * 0x1000), DmaAccess.Read, true))];
        // All can be sent: more than are remembered are told all the same.
        Assert.AreEqual(refusals.Length, iotlb.Questions.Pick(refusals, send));
        Assert.AreEqual(0, iotlb.Counters.Unreported);
        iotlb.Clear();
        // None can be sent: those that there is no room for are counted.
        int picked = iotlb.Questions.Pick(refusals.AsSpan(0, IotlbRefusals.Most), send);
        iotlb.Questions.Drop(send.AsSpan(0, picked));
        Assert.AreEqual(0, iotlb.Questions.Pick(refusals.AsSpan(IotlbRefusals.Most), send.AsSpan(0, 0)));
        Assert.AreEqual(5, iotlb.Counters.Unreported);
        Assert.AreEqual(1, iotlb.Questions.Pick([Miss(0x1000)], send.AsSpan(0, 1)));
        Assert.AreEqual(IotlbRefusals.Most, iotlb.Questions.Pick([], send));
    }

    [TestMethod]
    public void Misses_that_nobody_answers_are_bounded_and_counted_until_their_time_is_over()
    {
        var patient = new DeviceIotlb(missTimeout: TimeSpan.FromDays(1));
        var send = new IotlbQuestion[IotlbQuestions.MaxPending];
        Assert.AreEqual(send.Length, patient.Questions.Pick(Flood(), send));
        Assert.AreEqual(0, patient.Questions.Pick([Miss(Beyond), Miss(Beyond + 0x1000)], send));
        patient.Questions.Expire();
        Assert.AreEqual(IotlbQuestions.MaxPending, patient.Counters.Pending);
        Assert.AreEqual(2, patient.Counters.Unasked);
        Assert.AreEqual(0, patient.Counters.TimedOut);
        // One answer makes room for one question.
        patient.Update(new IotlbRange(IovaRange.Of(new Iova(0x1000), 0x1000), new HostAddress(0x5000), DmaAccess.Read));
        Assert.AreEqual(1, patient.Questions.Pick([Miss(Beyond), Miss(Beyond + 0x1000)], send));
    }

    [TestMethod]
    public void Misses_whose_time_is_over_make_room_when_another_is_asked()
    {
        var hasty = new DeviceIotlb(missTimeout: TimeSpan.Zero);
        var send = new IotlbQuestion[IotlbQuestions.MaxPending];
        Assert.AreEqual(send.Length, hasty.Questions.Pick(Flood(), send));
        Assert.AreEqual(1, hasty.Questions.Pick([Miss(Beyond)], send));
        Assert.AreEqual(1, hasty.Counters.Pending);
        Assert.AreEqual(IotlbQuestions.MaxPending, hasty.Counters.TimedOut);
        Assert.AreEqual(0, hasty.Counters.Unasked);
    }

    [TestMethod]
    public void A_miss_that_nobody_needs_any_more_is_forgotten_in_time_and_may_be_asked_anew()
    {
        var questions = new IotlbQuestions(new DeviceIotlb(), TimeSpan.Zero, TimeSpan.FromDays(1));
        var send = new IotlbQuestion[2];
        Assert.AreEqual(2, questions.Pick([Miss(0x1000), Miss(0x2200)], send));
        questions.Expire();
        Assert.AreEqual(2, questions.Pending, "the answers may still be on their way");
        questions.Answer(IovaRange.Of(new Iova(0x2200), 1));
        questions.Expire();
        Assert.AreEqual(0, questions.Pending, "the answer to a later one came");
        Assert.AreEqual(1, questions.TimedOut);
        Assert.AreEqual(1, questions.Pick([Miss(0x1000)], send));
    }

    [TestMethod]
    public void What_follows_a_known_part_of_a_page_is_asked_by_its_own_address()
    {
        var iotlb = new DeviceIotlb();
        using var view = new IotlbView(iotlb, Send);
        iotlb.Update(new IotlbRange(IovaRange.Of(new Iova(0x1000), 0x200), new HostAddress(0x5000), DmaAccess.Read));
        Miss(view, 0x1200);
        CollectionAssert.AreEqual(new[] { Miss(0x1200) }, _sent);
        iotlb.Update(new IotlbRange(IovaRange.Of(new Iova(0x1200), 0x200), new HostAddress(0x9000), DmaAccess.Read));
        Assert.AreEqual(0, iotlb.Counters.Pending);
    }

    [TestMethod]
    public void A_descriptor_of_a_gigabyte_does_not_ask_for_all_of_it_at_once()
    {
        var iotlb = new DeviceIotlb();
        using var view = new IotlbView(iotlb, Send);
        view.Begin();
        view.Translate(new Iova(0), 1u << 30, DmaAccess.Read, out _, out _);
        view.Ask();
        Assert.HasCount(64, _sent);
    }

    [TestMethod]
    public void A_descriptor_over_a_table_full_of_pieces_is_looked_at_only_so_far()
    {
        const ulong Pieces = 2000;
        var iotlb = new DeviceIotlb();
        using var view = new IotlbView(iotlb, Send);
        for (ulong page = 1; page < Pieces; page++)
        {
            // Backwards: no two merge.
            iotlb.Update(new IotlbRange(
                IovaRange.Of(new Iova(page * 0x1000), 0x1000), new HostAddress((Pieces - page) * 0x1000), DmaAccess.Read));
        }

        view.Begin();
        Assert.AreEqual(
            TranslationStatus.Miss, view.Translate(new Iova(0), (uint)(Pieces + 1) * 0x1000, DmaAccess.Read, out _, out _));
        view.Ask();
        CollectionAssert.AreEqual(new[] { Miss(0) }, _sent, "it looked for what is missing at the other end");
    }

    [TestMethod]
    public void A_refusal_behind_what_is_allowed_of_a_page_is_reported_by_its_own_address()
    {
        var iotlb = new DeviceIotlb();
        using var view = new IotlbView(iotlb, Send);
        iotlb.Update(new IotlbRange(IovaRange.Of(new Iova(0x1000), 0x800), new HostAddress(0x5000), DmaAccess.ReadWrite));
        iotlb.Update(new IotlbRange(IovaRange.Of(new Iova(0x1800), 0x800), default, DmaAccess.None));
        view.Begin();
        Assert.AreEqual(TranslationStatus.Denied, view.Translate(new Iova(0x1810), 0x10, DmaAccess.Read, out _, out _));
        view.Ask();
        Assert.AreEqual(new IotlbQuestion(new Iova(0x1810), DmaAccess.Read, true), _sent.Single());
    }

    private static IotlbQuestion[] Flood() =>
        [.. Enumerable.Range(0, IotlbQuestions.MaxPending).Select(i => Miss((ulong)i * 0x1000))];

    private static IotlbQuestion Miss(ulong page, DmaAccess access = DmaAccess.Read) => new(new Iova(page), access, false);

    private int Send(ReadOnlySpan<IotlbQuestion> questions)
    {
        _sent.AddRange(questions);
        return questions.Length;
    }

    private static void Miss(IotlbView view, ulong address)
    {
        view.Begin();
        Assert.AreEqual(TranslationStatus.Miss, view.Translate(new Iova(address), 1, DmaAccess.Read, out _, out _));
        view.Ask();
    }

    private static void Refuse(IotlbView view)
    {
        view.Begin();
        Assert.AreEqual(TranslationStatus.Denied, view.Translate(new Iova(0x2010), 0x100, DmaAccess.Write, out _, out _));
        view.Ask();
    }
}
