namespace Vfio.Litmus;

/// <summary>Lines that one thread writes and the other reads, as frames and used rings are. Stores to them wait for the line and
/// hold up the stores behind them in the store buffer: the race's window is as wide as in real work.</summary>
internal sealed class SharedLines
{
    private readonly PaddedLong[] _lines = new PaddedLong[8];

    /// <summary>By the thread whose next store is to be late.</summary>
    public void Write(long value)
    {
        for (int i = 0; i < _lines.Length; i++)
        {
            Volatile.Write(ref _lines[i].Value, value);
        }
    }

    /// <summary>By the other: takes the lines over.</summary>
    public long Read()
    {
        long sum = 0;
        for (int i = 0; i < _lines.Length; i++)
        {
            sum += Volatile.Read(ref _lines[i].Value);
        }

        return sum;
    }
}
