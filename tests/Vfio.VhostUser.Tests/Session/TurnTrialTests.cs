namespace Vfio.VhostUser.Tests.Session;

[TestClass]
public sealed class TurnTrialTests
{
    private long _now = 1 << 30;

    [TestMethod]
    [DataRow(20, 50)]
    [DataRow(50, 20)]
    public void The_quicker_one_is_used_for_a_term_after_each_trial(int kept, int given)
    {
        TurnTrial trial = default;
        trial.Count(_now);
        for (int i = 0; i < 5; i++)
        {
            bool first = trial.IsKept;
            Go(ref trial, TurnTrial.Rounds, kept, given);
            if (i == 0)
            {
                Assert.IsTrue(first);
                Assert.IsFalse(trial.IsKept, "only one was tried");
                Go(ref trial, TurnTrial.Rounds, kept, given);
            }

            for (int round = 0; round < TurnTrial.Term; round++)
            {
                Assert.AreEqual(kept < given, trial.IsKept, $"term {i}, round {round}");
                Go(ref trial, 1, kept, given);
            }

            Assert.AreEqual(kept >= given, trial.IsKept, "the other one is not tried again");
        }
    }

    [TestMethod]
    public void A_machine_that_changes_is_noticed()
    {
        TurnTrial trial = default;
        trial.Count(_now);
        Go(ref trial, 2 * TurnTrial.Rounds, 20, 50);
        Assert.IsTrue(trial.IsKept);
        Go(ref trial, TurnTrial.Term + TurnTrial.Rounds, 50, 20);
        Assert.IsFalse(trial.IsKept);
    }

    [TestMethod]
    public void Rounds_in_which_a_guest_had_nothing_to_do_do_not_count()
    {
        TurnTrial trial = default;
        for (int i = 0; i < 100 * TurnTrial.Rounds; i++)
        {
            trial.Count(_now += TurnTrial.Longest + 1);
        }

        Assert.IsTrue(trial.IsKept);
        Go(ref trial, TurnTrial.Rounds - 1, 20, 20);
        Assert.IsTrue(trial.IsKept);
        Go(ref trial, 1, 20, 20);
        Assert.IsFalse(trial.IsKept);
    }

    [TestMethod]
    public void A_session_whose_thread_never_gets_its_processor_is_given_no_turn()
    {
        TurnTrial trial = default;
        trial.Count(_now);
        Go(ref trial, TurnTrial.Rounds, 20, 20);
        Assert.IsFalse(trial.IsKept);
        Go(ref trial, TurnTrial.Rounds, 20, (int)TurnTrial.Longest + 1);
        Assert.IsTrue(trial.IsKept);
        Go(ref trial, TurnTrial.Term - 1, 20, 20);
        Assert.IsTrue(trial.IsKept);
    }

    private void Go(ref TurnTrial trial, int rounds, int kept, int given)
    {
        for (int i = 0; i < rounds; i++)
        {
            trial.Count(_now += trial.IsKept ? kept : given);
        }
    }
}
