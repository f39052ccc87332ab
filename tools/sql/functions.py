"""The functions that a statement may call, by engine, in lower case.

Invariant: what stands here reads nothing but its arguments and the session's clock: no files, no network, no settings,
no other sessions, no other statement. The limits of the engines bound what the rest can cost.
"""

from __future__ import annotations


def names(*lists: str) -> frozenset[str]:
    """The words of some lists."""
    return frozenset(" ".join(lists).split())


SQLITE = names(
    """
    -> ->> abs acos acosh asin asinh atan atan2 atanh avg bm25 ceil ceiling changes char coalesce concat concat_ws
    cos cosh count cume_dist current_date current_time current_timestamp date datetime degrees dense_rank exp
    first_value floor format glob group_concat hex highlight ifnull iif instr json json_array json_array_length
    json_each json_error_position json_extract json_group_array json_group_object json_insert json_object json_patch
    json_pretty json_quote json_remove json_replace json_set json_tree json_type json_valid julianday lag
    last_insert_rowid last_value lead length like likelihood likely ln log log10 log2 lower ltrim match max median
    min mod nth_value ntile nullif octet_length percent_rank percentile percentile_cont percentile_disc pi pow power
    printf quote radians random randomblob rank replace round row_number rtrim sign sin sinh snippet soundex
    sqlite_version sqrt strftime string_agg substr substring sum tan tanh time timediff total total_changes trim
    trunc typeof unhex unicode unixepoch unlikely upper zeroblob
    """
)
_STANDARD = """
    abs acos age array_agg array_length ascii asin atan atan2 avg bit_and bit_or bool_and bool_or cast cbrt ceil
    ceiling chr coalesce concat concat_ws corr cos cot count covar_pop covar_samp cume_dist current_date
    current_time current_timestamp date_part date_trunc degrees dense_rank exp extract first_value floor
    generate_series greatest grouping lag last_value lead least left length ln localtime localtimestamp log lower
    ltrim make_date make_time make_timestamp max md5 min mod mode now nth_value ntile nullif percent_rank
    percentile_cont percentile_disc pi position power radians random rank regexp_replace regr_intercept regr_r2
    regr_slope replace reverse right round row_number rtrim sign sin split_part sqrt starts_with stddev stddev_pop
    stddev_samp string_agg strpos substr substring sum tan to_timestamp translate trim trunc unnest upper var_pop
    var_samp variance
"""
POSTGRES = names(
    _STANDARD,
    """
    array_append array_cat array_dims array_lower array_ndims array_position array_positions array_prepend
    array_remove array_replace array_to_json array_to_string array_upper bit_length bit_xor bool btrim cardinality
    char_length character_length clock_timestamp col_description cosh current_catalog current_database
    current_schema current_user date date_bin div encode every factorial float4 float8 format_type gcd initcap int2
    int4 int8 isfinite json_agg json_array_elements json_array_elements_text json_array_length json_build_array
    json_build_object json_each json_each_text json_extract_path json_extract_path_text json_object json_object_agg
    json_object_keys json_typeof jsonb_agg jsonb_array_elements jsonb_array_elements_text jsonb_array_length
    jsonb_build_array jsonb_build_object jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text
    jsonb_object_agg jsonb_object_keys jsonb_pretty jsonb_typeof justify_days justify_hours justify_interval lcm
    log10 lower_inc make_interval make_timestamptz min_scale num_nonnulls num_nulls numrange obj_description
    octet_length overlay pg_get_constraintdef pg_get_expr pg_get_indexdef pg_get_viewdef pg_typeof quote_ident
    quote_literal regexp_count regexp_like regexp_match regexp_matches regexp_split_to_array regexp_split_to_table
    regexp_substr row_to_json scale sha256 sinh statement_timestamp string_to_array string_to_table tanh text time
    timeofday timestamp timestamptz timezone to_char to_date to_hex to_json to_jsonb to_number transaction_timestamp
    upper_inc width_bucket xmlagg
    """,
)
POSTGRES_CATALOG = names(
    """
    pg_attrdef pg_attribute pg_catalog pg_class pg_constraint pg_description pg_enum pg_index pg_indexes pg_matviews
    pg_namespace pg_tables pg_type pg_views
    """
)
"""Names beginning with `pg_` that may be read."""
DUCKDB = names(
    _STANDARD,
    """
    add any_value approx_count_distinct approx_quantile arg_max arg_min argmax argmin array_concat array_contains
    array_distinct array_extract array_has array_position array_slice array_sort array_to_string array_value bar bin
    bit_count bit_length bit_xor char_length character_length contains count_if countif current_database
    current_schema damerau_levenshtein date_add date_diff date_sub datediff datepart datesub datetrunc day dayname
    dayofmonth dayofweek dayofyear decade duckdb_columns duckdb_tables ends_with entropy epoch epoch_ms era even
    factorial favg first flatten format_bytes from_json fsum gamma gcd geometric_mean group_concat hash histogram
    hour if ifnull instr isfinite isinf isnan isodow isoyear json json_array json_array_length json_extract
    json_extract_string json_group_array json_group_object json_keys json_object json_type json_valid kurtosis last
    last_day lcase lcm levenshtein list list_aggregate list_any_value list_append list_avg list_concat list_contains
    list_count list_distinct list_element list_extract list_filter list_has list_indexof list_intersect list_length
    list_max list_min list_position list_reduce list_reverse list_slice list_sort list_sum list_transform
    list_unique list_value list_zip listagg log10 log2 mad map map_entries map_extract map_from_entries map_keys
    map_values max_by median microsecond millisecond min_by minute month monthname multiply nextafter octet_length
    ord pow pragma_table_info prefix product quantile quantile_cont quantile_disc quarter range regexp_extract
    regexp_extract_all regexp_full_match regexp_matches regexp_split_to_array row second sem signbit skewness split
    str_split str_split_regex strftime string_split string_split_regex string_to_array strip_accents strlen strptime
    struct_extract struct_pack subtract suffix sumkahan time_bucket timezone to_days to_hours to_json
    to_milliseconds to_minutes to_months to_seconds to_years today try_cast try_strptime typeof ucase unbin unhex
    unicode uuid week weekday weekofyear xor year yearweek
    """,
)
