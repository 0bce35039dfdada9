#!/usr/bin/env bash
# Deploys, plans again and destroys a stack on moto, an emulation of AWS, with the verbs that a user runs. moto runs no
# programs and has no image registry, so the image is written to a file.
#
#   KINDS     comb networks to try, by default all four; private_ipv4 is in a network that exists, with an image of another
#             registry
#   BINARIES  the programs to package; by default empty ones
set -euo pipefail
cd "$(dirname "$0")/../.."
. infra/bin/lib.sh
have terraform "version 1.10 or later"
search_plugins

work=$(mktemp -d)
server=''
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT

tools=$(infra/bin/tools.sh moto 'moto[server]==5.2.*' 'awscli==1.*')
export PATH=$tools:$PATH
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$tools/python" infra/bin/stand_in.py "$port" >"$work/moto.log" 2>&1 &
server=$!
for _ in $(seq 100); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
    sleep 0.2
done

# Removes the user's own settings and credentials.
for name in $(compgen -e | grep -E '^(AWS_|TF_VAR_|DATA_|OUTPUT_|BACKEND_|DEPLOY_PROFILE|COMB_NETWORK|COMB_TLS|BUCKET_REGIONS|NAME_PREFIX|TAGS|ROLE_PATH|PERMISSIONS_BOUNDARY|FUNCTION_|TF$)' || true); do unset "$name"; done
export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_ENDPOINT_URL=http://127.0.0.1:$port
export AWS_EC2_METADATA_DISABLED=true AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
export STAGE=dev REGION=us-east-2 AWS_DEFAULT_REGION=us-east-2 AUTO_APPROVE=1 ALLOW_DIRTY=1 BUILD_VERSION=try DATA_LOCATIONS='s3://lake/trips/ s3://rates' OUTPUT_LOCATIONS=s3://reports/daily/
export PACKAGES=$work/packages IMAGE_ARCHIVE=$work/images INFRA=$work/infra
export BACKEND_CONFIG='-backend-config=use_path_style=true -backend-config=skip_metadata_api_check=true -backend-config=skip_region_validation=true'

mkdir "$INFRA"
cp -r infra/*.tf infra/env infra/modules "$INFRA"
# Overrides for differences between moto and AWS.
cp infra/tests/stand_in/root.tf "$INFRA/stand_in_override.tf"
for module in network storage functions; do
    cp "infra/tests/stand_in/$module.tf" "$INFRA/modules/$module/stand_in_override.tf"
done
if [ -z "${BINARIES:-}" ]; then
    export BINARIES=$work/binaries
    mkdir "$BINARIES"
    echo 'int main(void) { return 0; }' >"$work/empty.c"
    for program in fuse_lambda hbee_lambda hcomb; do cc -static -s -o "$BINARIES/$program" "$work/empty.c"; done
fi

state() {
    TF_DATA_DIR=$PWD/infra/.terraform/$STAGE terraform -chdir="$INFRA" state list
}

# Sets the variables of a network that exists, as a company has one.
make_network() {
    local network group
    network=$(aws ec2 create-vpc --cidr-block 10.9.0.0/16 --query Vpc.VpcId --output text)
    group=$(aws ec2 create-security-group --group-name own --description own --vpc-id "$network" --query GroupId --output text)
    FUNCTION_SUBNETS=$(aws ec2 create-subnet --vpc-id "$network" --cidr-block 10.9.0.0/24 --query Subnet.SubnetId --output text)
    COMB_SUBNETS=$(aws ec2 create-subnet --vpc-id "$network" --cidr-block 10.9.1.0/24 --query Subnet.SubnetId --output text)
    FUNCTION_SECURITY_GROUPS=$group COMB_SECURITY_GROUPS=$group
    export FUNCTION_SUBNETS COMB_SUBNETS FUNCTION_SECURITY_GROUPS COMB_SECURITY_GROUPS
}

# Prints the version that the alias of Fuse names.
live() {
    aws lambda get-alias --function-name buzz-rust-fuse-dev --name live --query FunctionVersion --output text
}

for COMB_NETWORK in ${KINDS:-none public_ipv4 ipv6_only private_ipv4}; do
    export COMB_NETWORK
    say "== $COMB_NETWORK: doctor"
    unset FUNCTION_SUBNETS COMB_SUBNETS FUNCTION_SECURITY_GROUPS COMB_SECURITY_GROUPS
    COMB_IMAGE=''
    if [ "$COMB_NETWORK" = private_ipv4 ]; then
        make_network
        COMB_IMAGE=registry.example.com/buzz/hcomb:1a2b3c4d
    fi
    export COMB_IMAGE
    # The buckets of the settings do not exist here, and moto simulates no policies.
    infra/bin/doctor.py >"$work/doctor.txt" 2>&1 && { cat "$work/doctor.txt" >&2; fail "the doctor does not miss the buckets"; }
    [ "$(grep -c '^FAIL' "$work/doctor.txt")" = "$(grep -c '^FAIL  buckets: .* does not exist' "$work/doctor.txt")" ] || { cat "$work/doctor.txt" >&2; fail "the doctor finds faults that do not exist"; }
    grep -q '^ok    credentials: account 123456789012' "$work/doctor.txt" || { cat "$work/doctor.txt" >&2; fail "the doctor does not find the account"; }

    say "== $COMB_NETWORK: deploy"
    infra/bin/stack.sh deploy >"$work/deploy.log" 2>&1 || { cat "$work/deploy.log" >&2; fail "deploy failed"; }
    tail -n 1 "$work/deploy.log" >&2
    if state | grep -E 'aws_nat_gateway|aws_eip|aws_ecs_service'; then fail "the stack has what costs while idle"; fi
    tags=$(aws lambda list-tags --resource "$(aws lambda get-function-configuration --function-name buzz-rust-fuse-dev --query FunctionArn --output text)" --query 'Tags.stage' --output text)
    [ "$tags" = dev ] || fail "functions are not tagged with their stage"
    if [ "$COMB_NETWORK" = none ]; then
        if state | grep -E 'aws_(vpc|subnet|security_group|ecs|ecr)'; then fail "a stack without combs has what only combs need"; fi
        [ ! -e "$IMAGE_ARCHIVE" ] || fail "an image was written for a stack without combs"
    else
        if [ "$COMB_NETWORK" = private_ipv4 ]; then
            if state | grep -E 'aws_(vpc|subnet|security_group|ecr)'; then fail "the stack has a network or a registry beside those that exist"; fi
        else
            ls "$IMAGE_ARCHIVE"/buzz-rust-hcomb-dev-*.tar >/dev/null || fail "no image was written"
        fi
    fi
    if [ "$COMB_NETWORK" = ipv6_only ] && state | grep aws_internet_gateway; then fail "there is an internet gateway"; fi

    say "== $COMB_NETWORK: plan again"
    infra/bin/stack.sh plan >"$work/plan.log" 2>&1 || { cat "$work/plan.log" >&2; fail "plan failed"; }
    grep -q 'nothing would change' "$work/plan.log" || { cat "$work/plan.log" >&2; fail "a second plan is not empty"; }

    say "== $COMB_NETWORK: deploy again, roll back"
    first=$(live)
    BUILD_VERSION=second infra/bin/stack.sh deploy >"$work/deploy.log" 2>&1 || { cat "$work/deploy.log" >&2; fail "a second deploy failed"; }
    [ "$(live)" != "$first" ] || fail "a second deployment is not live"
    infra/bin/versions.py >"$work/versions.txt"
    grep -q 'live  Buzz second' "$work/versions.txt" || { cat "$work/versions.txt" >&2; fail "the second version is not listed"; }
    infra/bin/versions.py rollback >/dev/null
    [ "$(live)" = "$first" ] || fail "a rollback does not make the first version live"

    say "== $COMB_NETWORK: sample, logs, costs"
    mkdir -p "$work/sample"
    echo rows >"$work/sample/part.parquet"
    SAMPLE=$work/sample infra/bin/stack.sh sample 2>"$work/sample.log" || { cat "$work/sample.log" >&2; fail "sample failed"; }
    group=/aws/lambda/buzz-rust-fuse-dev
    line='{"fields":{"message":"query answered","query_id":"0192-query","cost_usd":0.25,"tasks":4,"bytes_read":1000000}}'
    aws logs create-log-stream --log-group-name $group --log-stream-name one
    printf '[{"timestamp": %s000, "message": "%s"}]' "$(date +%s)" "${line//\"/\\\"}" >"$work/events.json"
    aws logs put-log-events --log-group-name $group --log-stream-name one --log-events "file://$work/events.json" >/dev/null
    infra/bin/logs.py >"$work/logs.txt"
    grep -q '0192-query' "$work/logs.txt" || { cat "$work/logs.txt" >&2; fail "logs does not print what was logged"; }
    infra/bin/costs.py >"$work/costs.txt"
    grep -q '0192-query.*4 tasks *1.0 MB *[$]0.250000' "$work/costs.txt" || { cat "$work/costs.txt" >&2; fail "costs does not print the query"; }

    say "== $COMB_NETWORK: destroy"
    infra/bin/stack.sh destroy >"$work/destroy.log" 2>&1 || { cat "$work/destroy.log" >&2; fail "destroy failed"; }
    left=$(aws ecs list-task-definitions --query 'length(taskDefinitionArns)' --output text)
    [ "$left" = 0 ] || fail "$left task definitions are left"
    left=$(aws lambda list-functions --query 'length(Functions)' --output text)
    [ "$left" = 0 ] || fail "$left functions are left"
    # Lambda needs the roles to give back its interfaces in the subnets.
    awk '/aws_subnet.functions.*Destruction complete/ { subnet = NR }
        /aws_iam_role(_policy)?[.](function|fuse|hbee).*Destruction complete/ { if (!role) role = NR }
        END { exit !(subnet < role) }' "$work/destroy.log" || fail "roles of functions were deleted before their subnets"
    tail -n 1 "$work/destroy.log" >&2
    rm -rf "$PWD/infra/.terraform/$STAGE" "$IMAGE_ARCHIVE"
done
say "tried: deployed, nothing to change, destroyed"
