using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Session;

[TestClass]
public sealed class SessionTurnTests
{
    [TestMethod]
    public void A_poller_takes_from_its_first_question_until_the_session_runs()
    {
        int calls = 0;
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        using (ours)
        using (theirs)
        using (var turn = new SessionTurn(ours.Descriptor, (out bool left, out bool areAll) =>
        {
            left = areAll = false;
            return ++calls;
        }))
        {
            Assert.IsFalse(turn.Take(0), "nobody asked for anything");
            turn.Await();
            Assert.IsTrue(turn.AreAwaited);
            Assert.IsTrue(turn.Take(1));
            turn.Begin();
            Assert.IsFalse(turn.AreAwaited, "the session's thread takes the turn back");
            turn.End(goesOn: true);
            Assert.IsFalse(turn.Take(2));
            turn.Await();
            Assert.IsTrue(turn.Take(3), "the session goes on, and so do pollers");
        }

        Assert.AreEqual(2, calls);
    }

    [TestMethod]
    public void What_a_poller_leaves_goes_to_the_session()
    {
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        using (ours)
        using (theirs)
        using (var turn = new SessionTurn(ours.Descriptor, (out bool left, out bool areAll) =>
        {
            left = true;
            areAll = false;
            return 1;
        }))
        {
            turn.Await();
            Assert.IsTrue(turn.Take(0));
            Assert.IsFalse(turn.AreAwaited);
            // Nothing came through the socket: without being told the session's thread would sleep on.
            turn.Sleep(Timeout.InfiniteTimeSpan);
        }
    }

    // What is quicker is not for a test to say: both are tried.
    [TestMethod]
    public void A_poller_that_has_its_answers_keeps_the_turn_and_gives_it_back_in_trials()
    {
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        using (ours)
        using (theirs)
        using (var turn = new SessionTurn(ours.Descriptor, TakeTheLastAnswer))
        {
            long round = 0;
            var seen = new HashSet<bool>();
            for (int i = 0; i < 100 * TurnTrial.Rounds && seen.Count < 2; i++)
            {
                turn.Await();
                Assert.IsTrue(turn.Take(++round));
                // The port's other ring, whose turn it is in the same round.
                Assert.IsFalse(turn.Take(round));
                Assert.IsTrue(turn.AreAwaited, "the batch that the answers are for comes first");
                bool keeps = turn.Take(++round);
                Assert.AreEqual(keeps, turn.AreAwaited);
                seen.Add(keeps);
            }

            Assert.HasCount(2, seen);
        }
    }

    [TestMethod]
    public void A_poller_that_asks_again_before_it_gave_the_turn_back_has_it_for_the_new_answers()
    {
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        using (ours)
        using (theirs)
        using (var turn = new SessionTurn(ours.Descriptor, TakeTheLastAnswer))
        {
            for (int i = 0; i < 4 * TurnTrial.Rounds; i++)
            {
                turn.Await();
                Assert.IsTrue(turn.Take(i));
            }
        }
    }

    [TestMethod]
    public void No_poller_has_a_turn_once_the_session_is_over()
    {
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        using (ours)
        using (theirs)
        using (var turn = new SessionTurn(ours.Descriptor, (out bool left, out bool areAll) => throw new AssertFailedException("took from a session that is over")))
        {
            turn.Await();
            turn.Begin();
            turn.End(goesOn: false);
            turn.Await();
            Assert.IsFalse(turn.AreAwaited);
            Assert.IsFalse(turn.Take(0));
        }
    }

    [TestMethod]
    public void A_stuck_poller_ends_the_session_unacknowledged_with_its_rings_stopped()
    {
        using var peer = new Peer();
        peer.Negotiate(VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform).ShareMemory();
        peer.Accepted(FrontendRequest.IotlbMsg, new IotlbMessage
        {
            Iova = new Iova(Peer.User.Value),
            Size = Peer.MemoryLength,
            UserAddress = Peer.User,
            Permissions = 3,
            Type = IotlbMessageType.Update,
        });
        peer.SetUpRing(0);
        Assert.HasCount(1, peer.Device.Running);
        peer.Device.IsStuck = true;
        peer.Send(FrontendRequest.IotlbMsg, new IotlbMessage { Iova = new Iova(0x1000), Size = 0x1000, Type = IotlbMessageType.Invalidate });
        Assert.IsTrue(peer.IsSilent(), "a revocation was acknowledged that a poller may not have heard of");
        peer.AssertEnds();
        StringAssert.Contains(peer.Stalled?.Message ?? string.Empty, "poller-7");
    }

    private static int TakeTheLastAnswer(out bool left, out bool areAll)
    {
        left = false;
        areAll = true;
        return 1;
    }
}
