namespace Vfio;

/// <summary>Searching in items that ascend.</summary>
internal static class SortedSpan
{
    /// <summary>The last item that is not above a key.</summary>
    /// <typeparam name="T">The items' type.</typeparam>
    /// <typeparam name="TKey">The key's type, which knows how it compares to an item.</typeparam>
    /// <param name="items">The items, no two of them equal.</param>
    /// <param name="key">The key.</param>
    /// <returns>Its index, or -1 where all are above.</returns>
    public static int LastAtOrBelow<T, TKey>(this ReadOnlySpan<T> items, TKey key)
        where TKey : IComparable<T>
    {
        int found = items.BinarySearch(key);
        return found >= 0 ? found : ~found - 1;
    }
}
