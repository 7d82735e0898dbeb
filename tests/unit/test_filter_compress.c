/* SPDX-License-Identifier: MIT */
/*
 * the compress filter, above a format with clusters that counts its writes
 */
#include "tests/unit/filter_test.h"

#define CLUSTER 65536

/* Forwards everything, compressed writes as ordinary ones. */
typedef struct Clustered {
    unsigned compressed;
    bool refuses;
} Clustered;

static bool clustered_open(BlockDriverState *bs, BlockOptions *options,
                           BdrvOpenFlags flags, GError **error)
{
    if (!bdrv_open_file_child(bs, options, error)) {
        return false;
    }
    bs->length = bdrv_node_length(bs->file->bs);
    return true;
}

static int coroutine_fn clustered_preadv(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes, IoVec *iov, size_t at,
                                         BdrvRequestFlags flags)
{
    return bdrv_co_preadv(bs->file, offset, bytes, iov, at, flags);
}

static int coroutine_fn clustered_pwritev(BlockDriverState *bs,
                                          int64_t offset, int64_t bytes,
                                          IoVec *iov, size_t at,
                                          BdrvRequestFlags flags)
{
    return bdrv_co_pwritev(bs->file, offset, bytes, iov, at, flags);
}

static int coroutine_fn clustered_compressed(BlockDriverState *bs,
                                             int64_t offset, int64_t bytes,
                                             IoVec *iov, size_t at)
{
    Clustered *s = bs->opaque;

    assert_int_equal(offset % CLUSTER, 0);
    assert_true(bytes == CLUSTER || offset + bytes == bs->length);
    s->compressed++;
    return s->refuses ? -ENOTSUP
                      : bdrv_co_pwritev(bs->file, offset, bytes, iov, at, 0);
}

static bool clustered_info(BlockDriverState *bs, BlockDriverInfo *info)
{
    info->cluster_bytes = CLUSTER;
    return true;
}

static const BlockDriver clustered_driver = {
    .format_name = "test-clustered",
    .instance_size = sizeof(Clustered),
    .is_format = true,
    .open = clustered_open,
    .co_preadv = clustered_preadv,
    .co_pwritev = clustered_pwritev,
    .co_pwritev_compressed = clustered_compressed,
    .get_info = clustered_info,
};

static BdrvChild *open_on(BdrvChild *below)
{
    return node_open(FILTER_FLAGS, "{\"driver\":\"compress\",\"file\":"
                     "{\"driver\":\"test-clustered\",\"file\":\"%s\"}}",
                     below_name(below));
}

static Clustered *clustered(BdrvChild *node)
{
    return node->bs->file->bs->opaque;
}

static void test_whole_clusters_are_compressed(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = open_on(below);

    node_fill(node, CLUSTER, 3 * CLUSTER, 'a');
    assert_int_equal(clustered(node)->compressed, 3);
    assert_node_reads(node, CLUSTER, 3 * CLUSTER, 'a');
    bdrv_detach_child(node);
    memory_close(below);
}

static void test_parts_of_a_cluster_are_written_as_they_are(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = open_on(below);

    node_fill(node, CLUSTER - 100, CLUSTER + 200, 'b');
    assert_int_equal(clustered(node)->compressed, 1);
    assert_node_reads(node, CLUSTER - 100, CLUSTER + 200, 'b');
    assert_node_reads(node, 0, CLUSTER - 100, 0);
    bdrv_detach_child(node);
    memory_close(below);
}

static void test_the_short_last_cluster_is_compressed(void **state)
{
    BdrvChild *below = below_open_length(CLUSTER + 512);
    BdrvChild *node = open_on(below);

    node_fill(node, CLUSTER, 512, 'c');
    assert_int_equal(clustered(node)->compressed, 1);
    node_fill(node, CLUSTER, 511, 'd');
    assert_int_equal(clustered(node)->compressed, 1);
    bdrv_detach_child(node);
    memory_close(below);
}

static void test_what_is_refused_is_written_uncompressed(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = open_on(below);

    clustered(node)->refuses = true;
    node_fill(node, 0, 2 * CLUSTER, 'a');
    assert_int_equal(clustered(node)->compressed, 2);
    assert_node_reads(node, 0, 2 * CLUSTER, 'a');
    bdrv_detach_child(node);
    memory_close(below);
}

static void test_nodes_without_clusters_are_refused(void **state)
{
    BdrvChild *below = below_open_length(MIB);

    assert_open_fails(IMGFUSE_ERROR_UNSUPPORTED, "clusters", FILTER_FLAGS,
                      "{\"driver\":\"compress\",\"file\":\"%s\"}",
                      below_name(below));
    memory_close(below);
}

static int set_up(void **state)
{
    int ret = node_test_setup(state);

    bdrv_register(&clustered_driver);
    return ret;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_clusters_are_compressed),
        cmocka_unit_test(test_parts_of_a_cluster_are_written_as_they_are),
        cmocka_unit_test(test_the_short_last_cluster_is_compressed),
        cmocka_unit_test(test_what_is_refused_is_written_uncompressed),
        cmocka_unit_test(test_nodes_without_clusters_are_refused),
    };

    return cmocka_run_group_tests(tests, set_up, node_test_teardown);
}
