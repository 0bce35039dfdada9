#!/usr/bin/env bash
# stack.sh VERB: runs init, plan, deploy, destroy, login, sample or query on the stack of one stage.
#
#   STAGE, REGION   stage and region of the stack; both are required
#   DEPLOY_PROFILE  AWS profile of the stack's account; by default the usual credentials
#   BACKEND_PROFILE, BACKEND_BUCKET, BACKEND_REGION
#                   location of Terraform's state; by default a bucket in the stack's account, created if missing
#   AUTO_APPROVE=1  skips confirmations
#   TF=tofu         uses OpenTofu instead of Terraform
#   ALLOW_DIRTY=1   deploys uncommitted changes; the version then ends in -dirty
#   IMAGE_ARCHIVE   folder to which images are written instead of being pushed, for tests without a registry
set -euo pipefail
cd "$(dirname "$0")/../.."
. infra/bin/lib.sh

: "${CARGO_TARGET_DIR:=$HOME/.cache/buzz-target}"
: "${ARCH:=x86_64}" "${INFRA:=infra}" "${TF:=terraform}"
PACKAGES=${PACKAGES:-$CARGO_TARGET_DIR/packages/$ARCH}
: "${COMB_NETWORK:=none}" "${NAME_PREFIX:=buzz-rust}"
# Before version 4.4, bash calls an empty array an unset variable: `${color[@]+…}` is empty then.
color=()
[ -t 1 ] || color=(-no-color)

# True if the stack has combs.
combs_on() {
    [ "$COMB_NETWORK" != none ]
}

# True if the stack has a repository of its own, to which the image of combs is pushed.
image_on() {
    combs_on && [ -z "${COMB_IMAGE:-}" ]
}

# TF=tofu takes OpenTofu in place of Terraform.
tf() {
    "$TF" -chdir="$INFRA" "$@"
}

# Prints the deployed version: 0.1.0-1a2b3c4, 0.1.0-1a2b3c4-dirty, or 0.1.0-binaries for programs that were built
# elsewhere. BUILD_VERSION overrides it, for folders without git.
version() {
    if [ -n "${BUILD_VERSION:-}" ]; then
        echo "$BUILD_VERSION"
        return
    fi
    local number commit
    number=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    if [ -n "${BINARIES:-}" ]; then
        echo "$number-binaries"
        return
    fi
    commit=$(git rev-parse --short HEAD 2>/dev/null || echo unversioned)
    echo "$number-$commit$([ -z "$(changes)" ] || echo -dirty)"
}

# Prints the files with changes that are not committed. Terraform adds the checksums of other platforms to its lock file.
changes() {
    git status --porcelain -- . ':!infra/.terraform.lock.hcl' 2>/dev/null || true
}

check_dirty() {
    [ "${ALLOW_DIRTY:-}" != 1 ] || return 0
    local changed
    changed=$(changes)
    [ -z "$changed" ] || fail "the tree has changes that are not committed, as \`${changed%%$'\n'*}\`: commit them, or deploy them with ALLOW_DIRTY=1"
}

# Converts `a b` to ["a","b"], and `a=b c=d` to {"a":"b","c":"d"}, for Terraform.
json_list() {
    local word all=''
    for word in $1; do all+="${all:+,}\"$word\""; done
    echo "[$all]"
}
json_map() { # SETTING PAIRS
    local pair all=''
    for pair in $2; do
        [[ $pair == *=* ]] || fail "$1 has \`$pair\`; it takes pairs, as a=b c=d"
        all+="${all:+,}\"${pair%%=*}\":\"${pair#*=}\""
    done
    echo "{$all}"
}

# Checks that infra/env/conf.tf has the stage, before anything is built.
check_stage() {
    have "$TF" "Terraform or OpenTofu, version 1.10 or later, makes the stack"
    local said
    said=$(TF_DATA_DIR=$PWD/infra/.terraform/stages "$TF" -chdir="$INFRA/env" plan -input=false -no-color -lock=false -var "stage=$STAGE" 2>&1) ||
        fail "$(grep -A 2 "^Stage \`" <<<"$said" | tr '\n' ' ' || echo "$said")"
}

# Selects the workspace of the stage, in a data folder per stage, so that no verb changes another stage.
init() { # `known`: fails unless the stack exists
    have "$TF" "Terraform or OpenTofu, version 1.10 or later, makes the stack"
    local profile=${BACKEND_PROFILE:-${DEPLOY_PROFILE:-}} region=${BACKEND_REGION:-$REGION} owner
    export TF_DATA_DIR=$PWD/infra/.terraform/$STAGE
    mkdir -p "$TF_DATA_DIR"
    owner=$(profile_account "$profile")
    local bucket=${BACKEND_BUCKET:-$NAME_PREFIX-state-$owner-$region}
    # A bucket that was named may be of another account of the same company.
    if [ "${1:-}" != known ] && [ -z "${BACKEND_BUCKET:-}" ]; then make_state_bucket "$bucket" "$region" "$profile" "$owner"; fi
    find_plugins
    # shellcheck disable=SC2086 # several arguments, if any
    tf init -reconfigure -no-color ${plugins[@]+"${plugins[@]}"} -backend-config="bucket=$bucket" -backend-config="region=$region" \
        ${profile:+-backend-config="profile=$profile"} ${BACKEND_CONFIG:-} >"$TF_DATA_DIR/init.log" 2>&1 || {
        cat "$TF_DATA_DIR/init.log" >&2
        fail "terraform init failed; the state was to be in bucket $bucket, region $region"
    }
    if [ "${1:-}" != known ]; then
        tf workspace select -or-create "$STAGE" >/dev/null
    elif ! tf workspace select "$STAGE" >/dev/null 2>&1; then
        fail "there is no stage $STAGE in $region: the state in bucket $bucket does not know it"
    fi
    [ "$(tf workspace show)" = "$STAGE" ] || fail "Terraform did not choose workspace \`$STAGE\`: is TF_WORKSPACE set?"

    # One bucket can hold the state of several regions, but a stage is in only one of them.
    local deployed
    deployed=$(tf output -json sizes 2>/dev/null | python3 -c 'import json, sys; print(json.load(sys.stdin).get("region", ""))' 2>/dev/null || true)
    [ -z "$deployed" ] || [ "$deployed" = "$REGION" ] ||
        fail "stage $STAGE is in $deployed, not in $REGION: set REGION=$deployed, or use another stage for $REGION"

    export TF_VAR_region=$REGION TF_VAR_arch=$ARCH TF_VAR_comb_network=$COMB_NETWORK TF_VAR_log_level=${LOG_LEVEL:-info}
    export TF_VAR_traces_endpoint=${TRACES_ENDPOINT:-} TF_VAR_metrics=${METRICS:-off}
    export TF_VAR_comb_tls=${COMB_TLS:-false}
    TF_VAR_data_locations=$(json_list "${DATA_LOCATIONS:-}")
    TF_VAR_output_locations=$(json_list "${OUTPUT_LOCATIONS:-}")
    TF_VAR_data_kms_keys=$(json_list "${DATA_KMS_KEYS:-}")
    TF_VAR_bucket_regions=$(json_map BUCKET_REGIONS "${BUCKET_REGIONS:-}")
    TF_VAR_tags=$(json_map TAGS "${TAGS:-}")
    TF_VAR_function_subnets=$(json_list "${FUNCTION_SUBNETS:-}")
    TF_VAR_function_security_groups=$(json_list "${FUNCTION_SECURITY_GROUPS:-}")
    TF_VAR_comb_subnets=$(json_list "${COMB_SUBNETS:-}")
    TF_VAR_comb_security_groups=$(json_list "${COMB_SECURITY_GROUPS:-}")
    export TF_VAR_name_prefix=$NAME_PREFIX TF_VAR_role_path=${ROLE_PATH:-/} TF_VAR_permissions_boundary=${PERMISSIONS_BOUNDARY:-}
    export TF_VAR_comb_image=${COMB_IMAGE:-} TF_VAR_tags TF_VAR_function_subnets TF_VAR_function_security_groups
    export TF_VAR_comb_subnets TF_VAR_comb_security_groups
    # A query uses at most half of the functions that the account may run.
    TF_VAR_account_concurrency=$(aws lambda get-account-settings --query AccountLimit.UnreservedConcurrentExecutions --output text 2>/dev/null || true)
    [[ $TF_VAR_account_concurrency =~ ^[0-9]+$ ]] || TF_VAR_account_concurrency=0
    export TF_VAR_account_concurrency
    TF_VAR_build_version=$(version)
    export TF_VAR_data_locations TF_VAR_output_locations TF_VAR_data_kms_keys TF_VAR_bucket_regions TF_VAR_build_version
}

# shellcheck disable=SC2030,SC2031 # changes profile and region in this subshell only
profile_account() ( # PROFILE, or `` for the default credentials
    if [ -n "$1" ]; then export AWS_PROFILE=$1 DEPLOY_PROFILE=$1; fi
    account
)

# Makes the bucket of Terraform's state if it is missing, after asking. The name can be guessed, so a bucket of another
# account is refused: it would learn everything about the stack.
# shellcheck disable=SC2030,SC2031
make_state_bucket() ( # BUCKET REGION PROFILE OWNER
    export AWS_REGION=$2 AWS_DEFAULT_REGION=$2
    if [ -n "$3" ]; then export AWS_PROFILE=$3; fi
    local said place=()
    if said=$(aws s3api head-bucket --bucket "$1" --expected-bucket-owner "$4" 2>&1); then return; fi
    [[ $said == *404* || $said == *NoSuchBucket* ]] ||
        fail "bucket $1 for Terraform's state cannot be used, or is not of account $4: $said. Name a bucket in BACKEND_BUCKET"
    confirm "Make bucket $1 in $2 for Terraform's state?"
    say "making bucket $1 for Terraform's state …"
    [ "$2" = us-east-1 ] || place=(--create-bucket-configuration "LocationConstraint=$2")
    aws s3api create-bucket --bucket "$1" ${place[@]+"${place[@]}"} >/dev/null ||
        fail "bucket $1 for Terraform's state does not exist and cannot be created: name one in BACKEND_BUCKET"
    aws s3api put-bucket-versioning --bucket "$1" --versioning-configuration Status=Enabled
    aws s3api put-public-access-block --bucket "$1" --public-access-block-configuration \
        BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true
    # Each verb writes a version of the state. Old ones go after 90 days, but for the newest ten.
    aws s3api put-bucket-lifecycle-configuration --bucket "$1" --lifecycle-configuration '{"Rules": [{"ID": "old-states",
        "Status": "Enabled", "Filter": {}, "NoncurrentVersionExpiration": {"NoncurrentDays": 90, "NewerNoncurrentVersions": 10}}]}'
)

# Fargate cannot start tasks in an account without this role.
make_service_role() {
    if aws iam get-role --role-name AWSServiceRoleForECS >/dev/null 2>&1; then return; fi
    local said
    say "making the account's service role for ECS …"
    # Without permission for get-role, the role may exist: then this call fails with "has been taken".
    said=$(aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com 2>&1) || [[ $said == *"has been taken"* ]] ||
        say "warning: could not: $said. Combs will not start until someone may: aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com"
}

# Builds what the stack needs: without combs no image.
package() {
    local COMB_IMAGE_TAG=''
    if image_on; then infra/bin/package.sh; else infra/bin/package.sh lambdas; fi
    # shellcheck disable=SC1091 # written by package.sh
    . "$PACKAGES/packages.env"
    image_on || COMB_IMAGE_TAG=''
    image_tag=$COMB_IMAGE_TAG
    export TF_VAR_fuse_zip=$FUSE_ZIP TF_VAR_hbee_zip=$HBEE_ZIP TF_VAR_comb_image_tag=$COMB_IMAGE_TAG
}

# Prints the host of the account's image registry.
registry() {
    local host=amazonaws.com
    if [[ $REGION == cn-* ]]; then host=amazonaws.com.cn; fi
    echo "$(account).dkr.ecr.$REGION.$host"
}

login() {
    local tool registry
    tool=$(image_tool)
    registry=$(registry)
    aws ecr get-login-password | "$tool" login --username AWS --password-stdin "$registry" >&2 ||
        fail "\`$tool\` could not log in to $registry"
}

# Pushes the image unless the repository has it. Returns 1 if there is no repository, as before the first deployment.
push() {
    local name=$NAME_PREFIX-hcomb-$STAGE tool target
    local image=localhost/buzz-rust-hcomb:$image_tag
    tool=$(image_tool)
    aws ecr describe-repositories --repository-names "$name" >/dev/null 2>&1 || return 1
    if aws ecr describe-images --repository-name "$name" --image-ids "imageTag=$image_tag" >/dev/null 2>&1; then return; fi
    if [ -n "${IMAGE_ARCHIVE:-}" ]; then
        mkdir -p "$IMAGE_ARCHIVE"
        target=$IMAGE_ARCHIVE/$name-$image_tag.tar
        if [ -f "$target" ]; then return; fi
        say "writing the image to $target instead of pushing it"
        if [ "$tool" = buildah ]; then
            buildah push --quiet "$image" "docker-archive:$target" >&2 || fail "the image could not be written"
        else
            "$tool" save --output "$target" "$image" >&2 || fail "the image could not be written"
        fi
        return
    fi
    login
    target=$(registry)/$name:$image_tag
    say "pushing $target …"
    { "$tool" tag "$image" "$target" && "$tool" push "$target" >&2; } || fail "the image could not be pushed to $target"
}

# Prints the changes and saves the plan in a file. Returns 1 if there are no changes.
plan() { # further arguments of terraform plan
    local status=0
    planned=$TF_DATA_DIR/planned
    tf plan ${color[@]+"${color[@]}"} -detailed-exitcode -out="$planned" "$@" || status=$?
    case $status in
    0) return 1 ;;
    2) return 0 ;;
    *) fail "terraform plan failed; nothing was changed" ;;
    esac
}

# Nothing is changed before the question, but for Terraform's state.
deploy() {
    check_dirty
    check_stage
    account >/dev/null
    if image_on; then image_tool >/dev/null; fi
    init
    package
    local pushed=1
    if plan; then
        confirm "Apply this to stage $STAGE in $REGION?"
        infra/bin/versions.py prune # before the alias moves: running queries need the version that it names
        if combs_on; then
            make_service_role
            ! image_on || push || pushed=0
        else
            stop_combs # of a stack that has had some: its network cannot be deleted while they run
        fi
        tf apply ${color[@]+"${color[@]}"} "$planned" || fail "not all was applied; what was is kept, and \`make deploy\` goes on from there"
    elif image_on; then
        push || pushed=0
    fi
    rm -f "$planned"
    [ "$pushed" = 1 ] || push || fail "there is no repository to push the image to"
    say "stage $STAGE in $REGION has $(version). Next: make doctor STAGE=$STAGE, make stack-sample STAGE=$STAGE, make stack-query STAGE=$STAGE"
}

# Stops running combs, since the network cannot be deleted while they use it.
stop_combs() {
    local cluster=$NAME_PREFIX-cluster-$STAGE task
    for task in $(aws ecs list-tasks --cluster "$cluster" --query 'taskArns[]' --output text 2>/dev/null || true); do
        [ "$task" != None ] || continue
        say "stopping $task"
        aws ecs stop-task --cluster "$cluster" --task "$task" --reason "make destroy" >/dev/null
    done
}

destroy() {
    init known
    export TF_VAR_fuse_zip=none TF_VAR_hbee_zip=none TF_VAR_comb_image_tag=none
    local had_combs=0
    if tf state list 2>/dev/null | grep '^module.combs' >/dev/null; then had_combs=1; fi
    if plan -destroy; then
        say "This deletes all of stage $STAGE in $REGION, its results and its logs."
        if tf state list 2>/dev/null | grep '^module.network' >/dev/null; then
            say "AWS gives the functions' network interfaces back by itself; that may take 20 to 40 minutes, in which nothing seems to happen."
        fi
        confirm "Delete it?"
        stop_combs
        tf apply ${color[@]+"${color[@]}"} "$planned" || fail "not all is deleted. Interfaces that AWS has not given back yet are the usual reason: wait, and run \`make destroy\` again"
    fi
    rm -f "$planned"
    if [ "$had_combs" = 1 ]; then infra/bin/versions.py forget; fi
    TF_WORKSPACE='' tf workspace select default >/dev/null
    tf workspace delete "$STAGE" >/dev/null
    say "stage $STAGE is deleted. Terraform's state bucket stays: it serves all stages"
}

bucket() {
    local id
    id=$(account)
    echo "$NAME_PREFIX-$STAGE-$id-$REGION"
}

sample() {
    local target
    target=s3://$(bucket)/sample/nyc-taxi-daily
    aws s3 sync --only-show-errors --delete "$SAMPLE" "$target" ||
        fail "the sample could not be uploaded to $target: is stage $STAGE deployed in $REGION?"
    say "uploaded to $target. To query it:"
    say "  make stack-query STAGE=$STAGE"
    say "  buzz sql 'SELECT payment_type, COUNT(*) FROM nyc_taxi GROUP BY payment_type' --table nyc_taxi=$target --stack $STAGE"
}

# The example query reads the uploaded sample; other queries read the tables that they name.
query() {
    local table=()
    if [ -n "${TABLE:-}" ]; then
        table=(--table "$TABLE")
    elif [ "$QUERY" = code/examples/query-delta-taxi.json ]; then
        table=(--table "nyc_taxi=s3://$(bucket)/sample/nyc-taxi-daily")
    fi
    # Only the AWS command line reads profiles with single sign-on or a credential process. Its version 1 cannot export
    # credentials; then `buzz` looks them up itself.
    local keys
    if keys=$(aws configure export-credentials --format env 2>/dev/null); then eval "$keys"; fi
    exec "$BUZZ" query "$QUERY" --function "$NAME_PREFIX-fuse-$STAGE:live" ${table[@]+"${table[@]}"} --format "${FORMAT:-table}"
}

verb=${1:-}
case $verb in
check-dirty)
    check_dirty
    exit
    ;;
version)
    version
    exit
    ;;
esac
need_stage
case $verb in
need) ;;
init)
    init
    say "stage $STAGE is chosen"
    ;;
plan)
    check_stage
    account >/dev/null
    package
    init
    plan || say "nothing would change"
    rm -f "$planned"
    ;;
deploy | destroy | login | sample | query) "$verb" ;;
*) fail "stack.sh: \`$verb\` is not a verb" ;;
esac
