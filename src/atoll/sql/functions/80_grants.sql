-- Who may call and see what. Applications use the functions listed here and see what is shared; the link's role
-- reads the change log; everything else is the node's own.

create or replace function atoll.grant_rights() returns void
language plpgsql set search_path = pg_catalog as $$
declare
    api constant text[] := array[
        'share', 'declare_shared', 'unshare', 'end_sharing', 'find_table', 'qualified', 'check_owner', 'refuse',
        'id', 'me', 'now', 'clock_ms', 'tick', 'stamp_after', 'stamp_node', 'stamp_time', 'setting', 'peers',
        'list', 'fill', 'token', 'read_token', 'wait_for', 'check_wait', 'migrate', 'capture_shapes', 'say_op',
        'on_orphans', 'set_orphan_rule',
        'searchable', 'set_search_rule', 'search', 'search_table', 'search_plan', 'search_state', 'check_search', 'find_near', 'find_words', 'estimate', 'filter_of',
        'embedding_of', 'query_model', 'query_model_of',
        'read_query', 'phrase', 'beginning', 'needles', 'snippet', 'words', 'cut', 'uncut', 'scope_of', 'here', 'here_only',
        'rollup', 'declare_rollup', 'drop_rollup', 'end_rollup', 'refresh_rollup', 'count_anew', 'find_rollup', 'is_rollup',
        'counted_nodes', 'count_hashes', 'join_hashes', 'add_tallies', 'tally_quantile', 'sketch_value', 'sketch_code', 'tally',
        'value_hash', 'least_hashes', 'robust_z', 'smooth', 'smooth_trend', 'forecast',
        'robust_z_of', 'keep_value', 'check_weight', 'smooth_step', 'trend_step', 'trend_level'];
    -- These show or move what belongs to all tables, so they are not for every role that may connect.
    of_app constant text[] := array[
        'revert', 'mark_reverted', 'retry_parked',
        'confirm', 'open_feed', 'make_cursor', 'read_feed', 'read_feed_after', 'move_feed', 'close_feed',
        'receipt', 'receipt_buckets', 'receipt_rows', 'receipt_source',
        'add_pipeline', 'plan_pipeline', 'try_expression', 'try_columns', 'output_name', 'output_columns', 'output_definition', 'usual_columns', 'stamped', 'make_output', 'give_output',
        'key_of', 'is_of_key', 'equality', 'render', 'write_statement', 'declare_pipeline', 'own_pipeline', 'pause_pipeline', 'drop_pipeline', 'backfill', 'retry_pipeline',
        'due_entries', 'take_entries', 'fail_entries', 'backfill_step', 'say_pipeline',
        'embed_column', 'plan_embedding', 'vectors_definition', 'is_embedded', 'declare_embedding', 'search_by',
        'ask_later', 'cancel_job', 'retry_job'];
    f   record;
begin
    revoke execute on all functions in schema atoll, atoll_side from public;
    revoke execute on all procedures in schema atoll from public;
    alter default privileges in schema atoll_side revoke execute on functions from public;
    grant usage on schema atoll to public;
    for f in select oid::regprocedure as signature from pg_proc where pronamespace = 'atoll'::regnamespace and proname = any (api) loop
        execute format('grant execute on function %s to public', f.signature);
    end loop;
    grant select on atoll.node, atoll.shared_table, atoll.local_table, atoll.local_column, atoll.setting, atoll.schema_change, atoll.model, atoll.desired_model, atoll.model_state, atoll.search_rule, atoll.searches, atoll.embedding, atoll.offer, atoll.room, atoll.route to public;
    if exists (select from pg_roles where rolname = 'app') then
        for f in select oid::regprocedure as signature from pg_proc where pronamespace = 'atoll'::regnamespace and proname = any (of_app) loop
            execute format('grant execute on function %s to app', f.signature);
        end loop;
        grant select on atoll.rollups, atoll.orphans, atoll.orphan_rule, atoll.conflict, atoll.conflicts, atoll.parked, atoll.change, atoll.cursor, atoll.link_state, atoll.progress,
            atoll.pipeline, atoll.pipeline_state, atoll.pipelines, atoll.dead_letters, atoll.jobs, atoll.budgets to app;
    end if;
    if exists (select from pg_roles where rolname = 'atoll_link') then
        grant select on atoll.change to atoll_link;
    end if;
end $$;
