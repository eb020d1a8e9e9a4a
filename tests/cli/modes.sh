# Builds all steps in one store. Prints NAME and the layers of each, or NAME and why it was refused.
kiln=$1 steps=$2 base=$3
shift 3
built=
for file in "$steps"/*.Dockerfile; do
    name=${file##*/}
    name=${name%.Dockerfile}
    if said=$("$kiln" build --progress plain --build-context "busybox=oci-layout://$base" -t "$name" -f "$file" \
        "$@" "$steps/context" 2>&1); then
        built="$built $name"
    else
        echo "$name refused: $(echo "$said" | tr '\n' '|')"
    fi
    case $said in *'isolation: '*) echo "$name isolated: $(echo "$said" | tr '\n' '|')" ;; esac
done
test -z "$built" || "$kiln" inspect --format '{{index .RepoTags 0}} layers: {{json .RootFS.Layers}}' $built
